"""minidock writes, dockerd accepts: one root, filled by minidock's commands, then under a real engine.

Every test asks the engine for one thing; what it changes is its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minidock.store.root import DataRoot
from tests import builders
from tests.conftest import Engine
from tests.integration.tool import Tool
from tests.interop.engines import NewEngine, Release
from tests.interop.test_equal_digests import chain_id, saved_layers

BOX = "busybox:test"
WRITE = "echo out; echo err >&2; echo new > /data/new; rm /data/one; ln /data/new /data/link; exit 3"
NAMES = ("ran", "fresh", "broken", "exec", "begin", "removed", "saved", "twin")


def odd_layer() -> bytes:
    """What a layer may hold beside files: whiteouts, an opaque directory, links, owners, long names."""
    return builders.layer_tar(
        builders.directory(b"data"),
        builders.tar_member(b"data/.wh.one"),
        builders.directory(b"data/deep"),
        builders.tar_member(b"data/deep/.wh..wh..opq"),
        builders.tar_member(b"data/deep/" + b"n" * 120, b"long", mtime=1_700_000_000),
        builders.tar_member(b"owned", b"o", uid=3_000_000, gid=12345, mode=0o4755),
        builders.hardlink(b"owned-too", b"owned", uid=3_000_000, gid=12345, mode=0o4755),
        builders.symlink(b"pointer", b"/data/two"),
        builders.tar_member(b"pipe", type=b"6"),
        builders.tar_member(b"null", type=b"3", devmajor=1, devminor=3, mode=0o666),
        # A tar as others write it: not one byte of it may change.
        end=bytes(10240),
    )


class Handed:
    """The root, both programs, and what minidock said of its own work."""

    def __init__(self, engine: Engine, archive: Path, base: Path, release: Release) -> None:
        self.engine = engine
        self.docker = engine.docker
        self.tool = tool = Tool(engine.root, archive)
        lowest, second = _layers(archive)
        self.specs = {
            "odd:1": builders.ImageSpec([lowest, second, odd_layer()], tags=["odd:1", "team/odd:other"]),
            "example.com:5000/plain:2": builders.ImageSpec(
                [lowest],
                tags=["example.com:5000/plain:2"],
                config=builders.image_config(
                    [lowest], config={"Labels": {"a": "b"}, "WorkingDir": "/data", "Cmd": ["pwd"]}, author="me"
                ),
            ),
            "gone:1": builders.ImageSpec([second], tags=["gone:1"]),
        }
        tool.good("pull-tar", builders.docker_archive(base / "oci.tar", *self.specs.values(), style="oci"))
        self.specs[BOX] = builders.ImageSpec([lowest, second], tags=[BOX])
        tool.good("tag", "odd:1", "again:3")
        tool("run", "--name", "ran", "-l", "a=b", BOX, "sh", "-c", WRITE)
        tool("run", "--name", "twin", BOX, "sh", "-c", WRITE)
        tool.good("create", "--name", "fresh", "-e", "A=1", "-v", f"{base}:/host:ro", BOX, "cat", "/host/f")
        tool.good("create", "--name", "exec", "-u", "alice", "odd:1", "sleep", "1000")
        tool.good(
            "create", "--name", "begin", "-w", "/data", "odd:1", "sh", "-c", "pwd; ls; cat owned /owned-too; exit 7"
        )
        tool.good("create", "--name", "removed", BOX, "true")
        tool.good("create", "--name", "saved", BOX, "true")
        tool("run", "--name", "broken", BOX, "nosuch")
        tool.good("commit", "--engine", release.label, "-m", "by us", "-c", "ENV X=y", "ran", "ours:1")
        (base / "f").write_text("bound\n")
        self.said = {name: tool.inspect(name) for name in NAMES}
        self.images = {line.split()[0]: line.split()[1] for line in self.listed(tool.good)}
        engine.start()

    def listed(self, ask: Callable[..., Any]) -> list[str]:
        """The names and IDs of all images, as one side lists them."""
        out = ask("images", "-a", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
        return sorted((out if isinstance(out, str) else out.stdout).splitlines())

    def facts(self, name: str, *words: str) -> dict[str, Any]:
        """What docker says of one thing."""
        found: dict[str, Any] = json.loads(self.docker("inspect", *words, name).stdout)[0]
        return found


def _layers(archive: Path) -> tuple[bytes, bytes]:
    import tarfile

    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        first, second = (tar.extractfile(name).read() for name in manifest[0]["Layers"])  # type: ignore[union-attr]
    return first, second


@pytest.fixture(scope="module")
def handed(release: Release, new_engine_of: NewEngine, busybox_archive: Path) -> Iterator[Handed]:
    engine = new_engine_of(release)
    engine.base.mkdir(parents=True, exist_ok=True)
    place = engine.base / "host"
    place.mkdir()
    yield Handed(engine, busybox_archive, place, release)
    engine.stop()


def test_images(handed: Handed) -> None:
    assert handed.listed(handed.docker) == handed.listed(handed.tool.good)
    assert set(handed.images) >= {*handed.specs, "team/odd:other", "again:3", "ours:1"}
    for name, spec in handed.specs.items():
        if name != BOX:
            assert handed.images[name] == builders.sha256(spec.config)
    sizes = "{{.ID}} {{.Size}}"
    assert sorted(handed.docker("images", "--format", sizes).stdout.split("\n")) == sorted(
        [*handed.tool.good("images", "--format", sizes).split("\n"), ""]
    )


def test_history(handed: Handed) -> None:
    for name in handed.images:
        words = ("history", "--no-trunc", "--human=false", "--format", "{{json .}}", name)
        rows = []
        for text in (handed.docker(*words).stdout, handed.tool.good(*words)):
            rows.append([json.loads(line) for line in text.splitlines()])
            for row in rows[-1]:
                del row["CreatedSince"]
        assert rows[0] == rows[1], name
    assert rows[0]


def test_inspect_of_images(handed: Handed) -> None:
    for name in handed.images:
        theirs = handed.facts(name, "--type", "image")
        ours = json.loads(handed.tool.good("inspect", "--type", "image", name))[0]
        for key in (
            "Id",
            "RepoTags",
            "Created",
            "Author",
            "Architecture",
            "Os",
            "Size",
            "GraphDriver",
            "RootFS",
            "Config",
        ):
            if key in theirs:
                assert theirs[key] == {**ours, **({"Config": _as_in(theirs, ours)} if key == "Config" else {})}[key], (
                    key
                )


def _as_in(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    # Releases differ in which empty values of a config they show.
    return {key: ours["Config"].get(key, value) for key, value in theirs["Config"].items()}


def test_run(handed: Handed) -> None:
    look = "cat /data/two; ls /data /data/deep; cat /pointer; stat -c '%u %g %a %h' /owned; stat -c %F /pipe /null"
    run = handed.docker("run", "--rm", "--network", "none", "odd:1", "sh", "-c", look)
    expected = (
        f"two\n/data:\ndeep\ntwo\n\n/data/deep:\n{'n' * 120}\ntwo\n3000000 12345 4755 2\nfifo\ncharacter special file\n"
    )
    assert run.stdout == expected
    plain = handed.docker("run", "--rm", "--network", "none", "example.com:5000/plain:2")
    assert plain.stdout == "/data\n"
    ours = handed.docker("run", "--rm", "--network", "none", "ours:1", "sh", "-c", "cat /data/new; echo $X; ls /data")
    assert ours.stdout == "new\ny\ndeep\nlink\nnew\ntwo\n"


def test_create(handed: Handed) -> None:
    made = handed.docker("create", "--network", "none", "odd:1", "true").stdout.strip()
    assert handed.facts(made)["Image"] == handed.images["odd:1"]
    handed.docker("rm", made)


def test_commit(handed: Handed, release: Release) -> None:
    made = handed.docker("commit", "ran", "theirs:1").stdout.strip()
    theirs = handed.facts(made)["RootFS"]["Layers"]
    assert theirs == handed.facts("ours:1")["RootFS"]["Layers"]
    chains = handed.engine.root / "image/overlay2/layerdb/sha256"
    assert (chains / chain_id(theirs)[7:]).is_dir()
    handed.docker("rmi", "theirs:1")


def test_save(handed: Handed, scratch: Path) -> None:
    names = [*handed.specs, "ours:1"]
    handed.docker("save", "-o", scratch / "saved.tar", *names)
    # Engines from 25 on keep a hold of layers that they have saved, for as long as they run, and rmi leaves those.
    handed.engine.stop()
    handed.engine.start()
    digests, diff_ids = saved_layers(scratch / "saved.tar")
    for spec in handed.specs.values():
        layers = [builders.sha256(layer) for layer in spec.layers]
        assert layers in diff_ids
        assert digests >= set(layers)
    assert digests >= {handed.images[name] for name in names}


def test_load(handed: Handed, scratch: Path) -> None:
    before = sorted(os.listdir(handed.engine.root / "image/overlay2/layerdb/sha256"))
    archive = builders.docker_archive(
        scratch / "again.tar", *(spec for name, spec in handed.specs.items() if name != BOX)
    )
    handed.docker("load", "-i", archive)
    assert sorted(os.listdir(handed.engine.root / "image/overlay2/layerdb/sha256")) == before
    assert {line.split()[0]: line.split()[1] for line in handed.listed(handed.docker)} == handed.images


def test_tag_and_rmi_of_a_name(handed: Handed) -> None:
    handed.docker("tag", "odd:1", "odd:new")
    assert handed.docker("rmi", "odd:new").stdout == "Untagged: odd:new\n"
    assert handed.listed(handed.docker) == sorted(f"{name} {image}" for name, image in handed.images.items())


def test_rmi(handed: Handed) -> None:
    chain = handed.engine.root / "image/overlay2/layerdb/sha256" / builders.sha256(handed.specs["gone:1"].layers[0])[7:]
    layer = handed.engine.root / "overlay2" / (chain / "cache-id").read_text()
    link = handed.engine.root / "overlay2/l" / (layer / "link").read_text()
    assert link.is_symlink()
    lines = handed.docker("rmi", "gone:1").stdout.splitlines()
    assert lines == ["Untagged: gone:1", f"Deleted: {handed.images.pop('gone:1')}", f"Deleted: sha256:{chain.name}"]
    assert not chain.exists()
    assert not layer.exists()
    assert not link.is_symlink()
    del handed.specs["gone:1"]


def test_ps(handed: Handed) -> None:
    form = "{{.Names}}|{{.Image}}|{{.Command}}|{{.Labels}}"
    rows = handed.docker("ps", "-a", "--no-trunc", "--format", form).stdout.splitlines()
    assert sorted(rows) == sorted(handed.tool.good("ps", "-a", "--no-trunc", "--format", form).splitlines())
    states = dict(
        line.split() for line in handed.docker("ps", "-a", "--format", "{{.Names}} {{.State}}").stdout.splitlines()
    )
    assert states["ran"] == "exited"
    assert states["fresh"] == "created"


def test_inspect_of_containers(handed: Handed) -> None:
    for name, ours in handed.said.items():
        if name not in ("ran", "fresh", "broken"):
            continue
        theirs = handed.facts(name)
        for key in ("Id", "Created", "Path", "Args", "Image", "Name", "GraphDriver", "Mounts", "Driver", "Config"):
            wanted = _as_in(theirs, ours) if key == "Config" else ours[key]
            if key == "GraphDriver":
                theirs[key]["Data"].pop("ID", None)
            assert theirs[key] == wanted, key
        for key in ("Status", "ExitCode", "StartedAt", "FinishedAt", "Error", "Running"):
            assert theirs["State"][key] == ours["State"][key], key


def test_logs(handed: Handed) -> None:
    log = handed.docker("logs", "-t", "ran")
    ours = handed.tool("logs", "-t", "ran")
    assert [line.split(" ", 1)[1] for line in log.stdout.splitlines() + log.stderr.splitlines()] == ["out", "err"]
    assert (log.stdout, log.stderr) == (ours.stdout, ours.stderr)


def test_diff(handed: Handed) -> None:
    changes = sorted(handed.docker("diff", "ran").stdout.splitlines())
    assert changes == sorted(handed.tool.good("diff", "ran").splitlines())
    assert changes == ["A /data/link", "A /data/new", "C /data", "D /data/one"]


def test_start(handed: Handed) -> None:
    assert handed.docker("start", "-a", "fresh").stdout == "bound\n"
    begun = handed.docker("start", "-a", "begin", check=False)
    assert (begun.returncode, begun.stdout) == (7, "/data\ndeep\ntwo\n" + "o")
    again = handed.docker("start", "-a", "twin", check=False)
    # What the first run left is still there: the file to remove is gone, the link stands in the way.
    assert again.returncode == 3
    assert again.stdout == "out\n"
    assert "one" in again.stderr
    assert handed.docker("logs", "twin").stdout == "out\nout\n"


def test_exec_stop_wait_and_kill(handed: Handed) -> None:
    handed.docker("start", "exec")
    assert handed.docker("exec", "exec", "id", "-un").stdout == "alice\n"
    handed.docker("stop", "-t", "0", "exec")
    assert handed.docker("wait", "exec").stdout == "137\n"
    handed.docker("start", "exec")
    handed.docker("kill", "exec")
    assert handed.docker("wait", "exec").stdout == "137\n"


def test_rename_and_restart(handed: Handed) -> None:
    handed.docker("rename", "saved", "renamed")
    assert handed.facts("renamed")["Id"] == handed.said["saved"]["Id"]
    handed.docker("start", "exec")
    before = handed.facts("exec")["State"]["Pid"]
    handed.docker("restart", "-t", "0", "exec")
    assert handed.facts("exec")["State"]["Pid"] not in (0, before)
    handed.docker("kill", "exec")


def test_export_and_import(handed: Handed, release: Release, scratch: Path) -> None:
    theirs, ours = scratch / "theirs.tar", scratch / "ours.tar"
    handed.docker("export", "-o", theirs, "ran")
    names = builders.run_command("tar", "-tf", theirs).stdout.splitlines()
    assert {"data/new", "data/link", "data/two", ".dockerenv"} <= set(names)
    assert "data/one" not in names
    handed.tool.good("export", "--engine", release.label, "-o", ours, "ran")
    assert ours.read_bytes() == theirs.read_bytes()
    made = handed.docker("import", ours, "imported:1").stdout.strip()
    assert handed.facts(made)["RootFS"]["Layers"] == [builders.sha256(ours.read_bytes())]
    handed.docker("rmi", "imported:1")


def test_rm(handed: Handed) -> None:
    container = handed.said["removed"]
    upper = Path(container["GraphDriver"]["Data"]["UpperDir"]).parent
    assert upper.is_dir()
    handed.docker("rm", "removed")
    assert not upper.exists()
    assert not Path(f"{upper}-init").exists()
    assert not (handed.engine.root / "containers" / container["Id"]).exists()
    assert not (handed.engine.root / "image/overlay2/layerdb/mounts" / container["Id"]).exists()


def test_everything_removed_leaves_nothing(handed: Handed) -> None:
    # As above; loading what is there already counts twice, too.
    handed.engine.stop()
    handed.engine.start()
    handed.docker("rm", "-f", *handed.docker("ps", "-aq").stdout.split())
    handed.docker("image", "prune", "-a", "-f")
    root = handed.engine.root
    assert os.listdir(root / "overlay2/l") == []
    assert {name for name in os.listdir(root / "overlay2") if len(name) >= 64} == set()
    for place in ("layerdb/sha256", "layerdb/mounts", "imagedb/content/sha256", "imagedb/metadata/sha256"):
        assert os.listdir(root / "image/overlay2" / place) == [], place
    assert os.listdir(root / "containers") == []
    handed.engine.stop()
    with DataRoot.open(str(root)) as opened:
        assert opened.images.ids() == []
