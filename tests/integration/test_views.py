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
from tests.integration.tool import Tool, command, wait_until

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
def views(tool: Tool, session_scratch: Path) -> Iterator[Tool]:
    """A root with pair:1 of two layers and single:1 of one; no view may be left."""
    specs = [builders.ImageSpec([LOWER, UPPER], tags=["pair:1"]), builders.ImageSpec([SINGLE], tags=["single:1"])]
    with DataRoot.open(str(tool.root)) as root:
        pull_tar(root, str(builders.docker_archive(session_scratch / "views.tar", *specs)))
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
