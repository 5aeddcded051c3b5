"""mount, umount, cp and export of images: what the layers make together, read-only, and nothing of it left behind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.store.root import DataRoot
from minidock.verbs.pull_tar import pull_tar
from tests import builders
from tests.integration.looker import Looker
from tests.integration.tool import Tool, command, wait_until
from tests.seen_roots import age, images, stamps

LOWER = builders.layer_tar(
    builders.directory(b"data"),
    builders.tar_member(b"data/one", b"one\n", uid=5, mode=0o640),
    builders.tar_member(b"data/gone", b"gone\n"),
    builders.symlink(b"data/out", b"/etc/hostname"),
)
UPPER = builders.layer_tar(
    builders.directory(b"data"),
    builders.tar_member(b"data/.wh.gone"),
    builders.tar_member(b"data/two", b"two\n"),
)
# A whiteout at the bottom hides nothing, and nobody may see it.
SINGLE = builders.layer_tar(builders.tar_member(b"alone", b"alone\n"), builders.tar_member(b".wh.nothing"))


@pytest.fixture
def views(tool: Tool) -> Iterator[Tool]:
    """A root with pair:1 of two layers and single:1 of one; no view may be left."""
    specs = [builders.ImageSpec([LOWER, UPPER], tags=["pair:1"]), builders.ImageSpec([SINGLE], tags=["single:1"])]
    with DataRoot.open(str(tool.root)) as root:
        pull_tar(root, str(builders.docker_archive(tool.root.parent / "pair.tar", *specs)))
    yield tool
    left = json.loads(tool.good("mount", "--json"))
    for view in left:
        if is_of(tool, view["Id"]):
            subprocess.run(["umount", "-l", view["Directory"]], check=False)
            pytest.fail(f"left mounted: {view}")


def is_of(tool: Tool, identity: str) -> bool:
    """Whether a view is of this test's root; other tests may mount theirs meanwhile."""
    return (
        any(identity.removeprefix("sha256:") in names for _, names, _ in os.walk(tool.root / "image"))
        or (tool.root / "containers" / identity).exists()
    )


def names_in(directory: str | Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_images_and_layers_are_mounted_and_listed(views: Tool) -> None:
    target = views.root.parent / "view"
    target.mkdir()
    assert views.good("mount", "pair:1", target) == str(target)
    assert names_in(target / "data") == ["one", "out", "two"]
    status = (target / "data/one").stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (5, 0o640)
    with pytest.raises(OSError, match="Read-only file system"):
        (target / "data/new").touch()
    image = json.loads(views.good("inspect", "pair:1"))[0]
    (row,) = [line.split() for line in views.good("mount").splitlines() if str(target) in line]
    assert row == ["image", image["Id"][7:19], str(target)]
    views.good("umount", target)
    assert names_in(target) == []
    bottom = image["RootFS"]["Layers"][0]
    made = Path(views.good("mount", bottom[7:19]))
    assert made.parent == Path("/run/minidock/views")
    assert names_in(made / "data") == ["gone", "one", "out"]
    views.good("umount", made)
    assert not made.exists()
    done = views("umount", target)
    assert (done.returncode, "no view is mounted" in done.stderr) == (1, True)


def test_a_single_layer(views: Tool) -> None:
    made = Path(views.good("mount", "single:1"))
    assert names_in(made) == ["alone"]
    views.good("umount", made)


def test_a_containers_view_goes_with_it(views: Tool) -> None:
    views.good("create", "--name", "box", "--network", "none", "busybox:test", "true")
    views.good("cp", "/etc/hostname", "box:/data/put")
    made = Path(views.good("mount", "box"))
    assert "put" in names_in(made / "data") and (made / ".dockerenv").exists()
    (view,) = [one for one in json.loads(views.good("mount", "--json")) if one["Directory"] == str(made)]
    assert (view["Kind"], view["Id"]) == ("container", views.inspect("box")["Id"])
    views.good("rm", "box")
    assert not made.exists()


def test_what_a_running_container_writes_is_seen_at_once(views: Tool) -> None:
    views.good("run", "-d", "--name", "live", "--network", "none", "busybox:test", "sh", "-c", "echo 1 >/a; sleep 1000")
    made = views.root.parent / "live"
    made.mkdir()
    wait_until(lambda: views("exec", "live", "cat", "/a").stdout == "1\n", "the first file")
    views.good("mount", "live", made)
    assert (made / "a").read_text() == "1\n"
    views.good("exec", "live", "sh", "-c", "echo 2 >/b")
    assert (made / "b").read_text() == "2\n"
    assert names_in(made / "proc") == []
    with pytest.raises(OSError, match="Read-only file system"):
        (made / "c").touch()
    assert [one["Directory"] for one in json.loads(views.good("mount", "--json")) if one["Directory"] == str(made)]
    views.good("rm", "-f", "live")
    assert names_in(made) == []


def test_bad_mounts(views: Tool) -> None:
    for words, reason in (
        (("mount", "nobody"), "no such image, container or layer: nobody"),
        (("mount", "pair:1", "/nowhere/at/all"), "is not a directory"),
        (("umount", "/proc"), "no view is mounted at /proc"),
    ):
        done = views(*words)
        assert done.returncode == 1
        assert reason in done.stderr and len(done.stderr.splitlines()) == 1


def test_export_of_an_image_is_that_of_its_container(views: Tool) -> None:
    views.good("export", "-o", views.root.parent / "image.tar", "pair:1")
    with tarfile.open(views.root.parent / "image.tar") as archive:
        assert archive.getnames() == ["data", "data/one", "data/out", "data/two"]
        member = archive.extractfile("data/two")
        assert member and member.read() == b"two\n"
    views.good("export", "-o", views.root.parent / "single.tar", "single:1")
    with tarfile.open(views.root.parent / "single.tar") as archive:
        assert archive.getnames() == ["alone"]
    done = views("export", "-o", views.root.parent / "none.tar", "nobody:1")
    assert (done.returncode, "No such container: nobody:1" in done.stderr) == (1, True)


def test_cp_out_of_an_image(views: Tool) -> None:
    out = views.root.parent / "out"
    out.mkdir()
    views.good("cp", "pair:1:/data", out)
    assert names_in(out / "data") == ["one", "out", "two"]
    views.good("cp", "pair:1:/data/two", out / "renamed")
    assert (out / "renamed").read_text() == "two\n"
    views.good("tag", "pair:1", "localhost:5000/some/pair:2")
    views.good("cp", "localhost:5000/some/pair:2:/data/one", out / "one")
    assert (out / "one").read_text() == "one\n"
    stream = subprocess.run(command("cp", "pair:1:/data/one", "-"), env=views.environment, capture_output=True).stdout
    assert tarfile.open(fileobj=io.BytesIO(stream)).getnames() == ["one"]
    views.good("cp", "-L", "busybox:test:/bin/busybox", out / "busybox")
    done = views("cp", "-L", "pair:1:/data/out", out / "leak")
    assert done.returncode == 1 and not (out / "leak").exists()
    for words, reason in (
        (("cp", "pair:1:/nothing", str(out)), "No such container:path: pair:1:/nothing"),
        (("cp", "nobody:/etc", str(out)), "No such container: nobody"),
        (("cp", str(out), "pair:1:/data"), "an image cannot be written to"),
    ):
        done = views(*words)
        assert (done.returncode, reason in done.stderr) == (1, True), done.stderr


def test_a_dead_root_is_read_and_stays_as_it_is(views: Tool) -> None:
    dead = views.root.parent / "dead"
    dead.mkdir()
    out = views.root.parent / "out.tar"
    builders.run_command("mount", "--bind", "-o", "ro", views.root, dead)
    paths = builders.run_command("find", views.root, "-print0").stdout.split("\0")[:-1]
    before = [os.lstat(path) for path in paths]
    try:
        done = views("--root", dead, "cp", "pair:1:/data/two", "-")
        assert done.returncode == 0
        assert views("--root", dead, "export", "-o", out, "pair:1").returncode == 0
        made = Path(views.good("--root", dead, "mount", "pair:1"))
        assert names_in(made / "data") == ["one", "out", "two"]
        assert (made / "data/two").read_text() == "two\n"
        views.good("--root", dead, "umount", made)
    finally:
        builders.run_command("umount", dead)
    same = [(now.st_mtime_ns, now.st_ctime_ns, now.st_ino) for now in map(os.lstat, paths)]
    assert same == [(status.st_mtime_ns, status.st_ctime_ns, status.st_ino) for status in before]


def test_reading_an_image_leaves_no_access_time(views: Tool) -> None:
    out = views.root.parent / "out"
    out.mkdir()
    paths = builders.run_command("find", views.root, "-print0").stdout.split("\0")[:-1]
    for path in paths:
        os.utime(path, ns=(978307200 * 10**9, os.lstat(path).st_mtime_ns), follow_symlinks=False)
    before = [os.lstat(path) for path in paths]
    views.good("cp", "pair:1:/data", out)
    views.good("export", "-o", out / "tar", "single:1")
    assert [os.lstat(path) for path in paths] == before


def read_all(directory: Path) -> int:
    """Read everything that a view shows: each listing, file, link, attribute; how many there were."""
    count = 0
    for where, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = Path(where, name)
            if path.is_symlink():
                path.readlink()
            elif path.is_file():
                assert path.read_bytes() is not None
            for key in os.listxattr(path, follow_symlinks=False):
                os.getxattr(path, key, follow_symlinks=False)
            count += 1
    return count


@pytest.mark.parametrize("option", ["relatime", "strictatime"])
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_a_view_and_reading_through_it_leave_no_access_time(
    kind: str, option: str, scratch: Path, busybox_layer: bytes
) -> None:
    """On a file system that can be written to, and with all times so old that any access would move them."""
    disk = scratch / "disk"
    disk.mkdir()
    if kind == "ext4":
        with open(scratch / "image", "wb") as image:
            image.truncate(64 << 20)
        builders.run_command("mkfs.ext4", "-q", "-F", scratch / "image")
        builders.run_command("mount", "-o", f"loop,{option}", scratch / "image", disk)
    else:
        builders.run_command("mount", "-t", "tmpfs", "-o", option, "tmpfs", disk)
    root, view = disk / "root", scratch / "view"
    view.mkdir()
    look = Looker(root)
    try:
        look.good("pull-tar", "-q", builders.docker_archive(scratch / "seen.tar", *images(busybox_layer)))
        look.good("create", "--name", "box", "--network", "none", "seen:1", "true")
        layer = look.document("explain", "seen:1")["layers"][1]["chain_id"]
        age(root)
        before = stamps(root)
        for name in ("seen:1", "seen:2", "other:1", "box", layer):
            look.good("mount", name, view)
            assert read_all(view) >= 6
            assert str(view) in look.good("mount")
            look.good("umount", view)
        assert stamps(root) == before
        # The test can fail: a look by another way moves times.
        read_all(root / "overlay2")
        assert stamps(root) != before
    finally:
        builders.run_command("umount", "-R", disk)


def test_what_is_mounted_is_not_removed(views: Tool) -> None:
    """Neither by rmi, forced or not, nor by a prune; and the reason names the place."""
    target = views.root.parent / "a view"
    target.mkdir()
    views.good("tag", "pair:1", "pair:2")
    image_id = json.loads(views.good("inspect", "pair:1"))[0]["Id"]
    layer = views.good("explain", "--json", "pair:1")
    for name in ("pair:1", json.loads(layer)["layers"][0]["chain_id"]):
        views.good("mount", name, target)
        views.good("rmi", "pair:2")
        for words in ((image_id,), ("-f", image_id[7:19]), ("pair:1",), ("-f", "pair:1")):
            done = views("rmi", *words)
            assert (done.returncode, done.stdout) == (1, ""), words
            assert done.stderr.endswith(
                f"conflict: unable to delete {image_id[7:19]} (cannot be forced) - image is mounted at {target} "
                f"(minidock umount {target})\n"
            )
            assert len(done.stderr.splitlines()) == 1
        done = views("image", "prune", "-a", "-f")
        assert f"image is mounted at {target}" in done.stderr and len(done.stderr.splitlines()) == 1
        assert image_id not in done.stdout
        assert "one" in names_in(target / "data")
        # What goes elsewhere does not matter: another image, another root.
        with DataRoot.open(str(views.root.parent / "other")) as root:
            pull_tar(root, str(views.root.parent / "pair.tar"))
        views.good("--root", views.root.parent / "other", "rmi", "pair:1")
        views.good("umount", target)
        views.good("tag", "pair:1", "pair:2")
    views.good("rmi", "pair:1", "pair:2")
    assert views("inspect", image_id).returncode == 1


def test_gc_names_the_place_of_a_view(views: Tool) -> None:
    """A layer of no image stays as long as it is looked at."""
    image = json.loads(views.good("inspect", "pair:1"))[0]
    name = image["Id"][7:]
    (views.root / "image/overlay2/imagedb/content/sha256" / name).unlink()
    references = views.root / "image/overlay2/repositories.json"
    document = json.loads(references.read_text())
    del document["Repositories"]["pair"]
    references.write_text(json.dumps(document))
    planned = json.loads(views.good("gc", "--plan", "--json"))["Steps"]
    made = Path(views.good("mount", image["RootFS"]["Layers"][0][7:19]))
    plan = json.loads(views.good("gc", "--plan", "--json"))
    views.good("umount", made)
    assert any(f"it is mounted at {made}" in line for line in plan["Remarks"])
    assert len(plan["Steps"]) < len(planned)


def test_views_are_found_among_many_mounts(views: Tool) -> None:
    """The kernel gives a long table in parts, and the newest mounts stand at its end."""
    words = " ".join(f"'{word}'" for word in command())
    script = f"""set -e
    mount --make-rprivate /
    mkdir many view
    for i in $(seq 1 100); do mount -t tmpfs none many; done
    {words} mount pair:1 view
    ls view/data
    {words} mount | grep -c "$PWD/view"
    {words} umount view
    ls view
    """.replace(command()[3], "$MINIDOCK_CODE")
    script = script.replace("'$MINIDOCK_CODE'", '"$MINIDOCK_CODE"')
    environment = {**views.environment, "MINIDOCK_CODE": command()[3]}
    done = builders.run_command("unshare", "-m", "sh", "-c", script, cwd=views.root.parent, env=environment)
    assert done.stdout.split() == [
        str(views.root.parent / "view"),
        "one",
        "out",
        "two",
        "1",
    ] or done.stdout.split() == [*("view", "one", "out", "two", "1")]
