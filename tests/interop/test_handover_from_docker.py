"""dockerd writes, minidock works: one root, filled by a real engine that has gone, then under minidock's commands.

Every test asks minidock for one thing and holds it to what docker said of the same; what it changes is its own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minidock.store.root import DataRoot
from tests import builders
from tests.conftest import Engine, unmount_below
from tests.integration.tool import Tool, wait_until
from tests.interop.engines import NewEngine, Release
from tests.interop.test_equal_digests import chain_id, saved_layers
from tests.interop.test_handover_to_docker import BOX, WRITE, _layers, odd_layer

IMAGES = "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}"
HISTORY = ("history", "--no-trunc", "--human=false", "--format", "{{json .}}")
ROWS = "{{.ID}}|{{.Names}}|{{.Image}}|{{.Command}}|{{.Labels}}|{{.State}}"
# What a later release may add to the files of a container.
UNKNOWN: dict[str, dict[str, Any]] = {
    "config.v2.json": {"ImageManifest": {"digest": "kept", "size": 1}},
    "hostconfig.json": {"Novelty": [1, {"a": None}]},
}

WRITES = (
    ("rmi", "odd:1"), ("tag", "odd:1", "x:1"), ("rm", "ran"), ("rm", "-f", "sleeper"), ("commit", "ran"),
    ("pause", "sleeper"), ("unpause", "sleeper"), ("update", "-m", "60m", "sleeper"), ("rename", "ran", "other"),
    ("update", "--restart", "always", "ran"), ("restart", "-t", "0", "sleeper"), ("container", "prune", "-f"),
    ("image", "prune", "-a", "-f"), ("volume", "prune", "-f"), ("system", "prune", "-f"), ("volume", "create", "vol"),
    ("create", BOX), ("run", "--rm", BOX, "true"), ("start", "fresh"),
)  # fmt: skip


class Left:
    """A root that an engine has left, and what docker said of everything in it."""

    def __init__(self, engine: Engine, archive: Path, base: Path) -> None:
        self.engine = engine
        docker = engine.docker
        lowest, second = _layers(archive)
        self.specs = {
            BOX: builders.ImageSpec([lowest, second], tags=[BOX]),
            "odd:1": builders.ImageSpec([lowest, second, odd_layer()], tags=["odd:1"]),
            "gone:1": builders.ImageSpec([second], tags=["gone:1"]),
        }
        self.archive = builders.docker_archive(base / "images.tar", *self.specs.values())
        engine.start()
        docker("load", "-i", self.archive)
        docker("tag", "odd:1", "team/odd:other")
        (base / "f").write_text("bound\n")
        create = ("create", "--network", "none", "--name")
        docker("run", "--network", "none", "--name", "ran", "-l", "a=b", BOX, "sh", "-c", WRITE, check=False)
        docker("run", "--network", "none", "--name", "twin", BOX, "sh", "-c", "touch /twin; " + WRITE, check=False)
        docker(*create, "fresh", "-e", "A=1", "-v", f"{base}:/host:ro", "--tmpfs", "/t", BOX, "cat", "/host/f")
        docker(*create, "sleeper", "-u", "alice", "--init", "--stop-signal", "KILL", "odd:1", "sleep", "1000")
        docker(*create, "removed", BOX, "true")
        docker(
            *create,
            "kept",
            "--memory",
            "64m",
            "--userns",
            "host",
            "--restart",
            "on-failure:3",
            "--dns",
            "192.0.2.1",
            BOX,
            "true",
        )
        docker("commit", "-m", "by docker", "-c", "ENV X=y", "ran", "theirs:1")
        docker("commit", "twin", "extra:1")
        self.images = sorted(docker("images", "-a", "--no-trunc", "--format", IMAGES).stdout.splitlines())
        self.rows = sorted(docker("ps", "-a", "--no-trunc", "--format", ROWS).stdout.splitlines())
        self.containers = {
            name: _facts(engine, name) for name in ("ran", "twin", "fresh", "sleeper", "removed", "kept")
        }
        names = [line.split()[0] for line in self.images]
        self.facts = {name: _facts(engine, "--type", "image", name) for name in names}
        self.history = {name: docker(*HISTORY, name).stdout for name in names}
        log = docker("logs", "-t", "ran")
        self.log = (log.stdout, log.stderr)
        self.diff = sorted(docker("diff", "ran").stdout.splitlines())
        docker("export", "-o", base / "export.tar", "ran")
        self.exported = base / "export.tar"
        docker("save", "-o", base / "saved.tar", *self.specs, "theirs:1")
        self.saved = base / "saved.tar"
        engine.stop()
        for facts in self.containers.values():
            for name, more in UNKNOWN.items():
                path = engine.root / "containers" / facts["Id"] / name
                path.write_text(json.dumps({**json.loads(path.read_text()), **more}, separators=(",", ":")) + "\n")
        # Loading what is there already must change nothing, so this is a look at load too.
        self.tool = Tool(engine.root, archive)

    def unknown(self, name: str) -> dict[str, Any]:
        """What is left of the fields that minidock does not know."""
        place = self.engine.root / "containers" / self.containers[name]["Id"]
        documents = {file: json.loads((place / file).read_text()) for file in UNKNOWN}
        return {file: {key: documents[file].get(key) for key in more} for file, more in UNKNOWN.items()}


def _facts(engine: Engine, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.docker("inspect", *words).stdout)[0]
    return found


@pytest.fixture(scope="module")
def left(release: Release, new_engine_of: NewEngine, busybox_archive: Path) -> Iterator[Left]:
    engine = new_engine_of(release)
    place = engine.base / "host"
    place.mkdir(parents=True)
    made = Left(engine, busybox_archive, place)
    yield made
    made.tool("rm", "-f", *made.tool.good("ps", "-aq").split())
    engine.stop()


def test_images(left: Left) -> None:
    ours = left.tool.good("images", "-a", "--no-trunc", "--format", IMAGES).splitlines()
    assert sorted(ours) == left.images
    assert len(ours) == 6


def test_history(left: Left) -> None:
    for name, text in left.history.items():
        rows = [[json.loads(line) for line in said.splitlines()] for said in (text, left.tool.good(*HISTORY, name))]
        for row in rows[0] + rows[1]:
            del row["CreatedSince"]
        assert rows[0] == rows[1], name


def test_inspect_of_images(left: Left) -> None:
    for name, theirs in left.facts.items():
        ours = json.loads(left.tool.good("inspect", "--type", "image", name))[0]
        for key in (
            "Id",
            "RepoTags",
            "Parent",
            "Created",
            "Author",
            "Architecture",
            "Os",
            "Size",
            "GraphDriver",
            "RootFS",
        ):
            if key in theirs:
                assert ours[key] == theirs[key], (name, key)
        for key, value in theirs["Config"].items():
            # 28 shows nothing where the config has an empty map.
            assert (ours["Config"].get(key, value) or None) == (value or None), (name, key)


def test_ps(left: Left) -> None:
    assert sorted(left.tool.good("ps", "-a", "--no-trunc", "--format", ROWS).splitlines()) == left.rows
    assert left.tool.good("ps", "-q") == ""


def test_inspect_of_containers(left: Left) -> None:
    for name, theirs in left.containers.items():
        ours = left.tool.inspect(name)
        theirs["GraphDriver"]["Data"].pop("ID", None)
        for key in ("Id", "Created", "Path", "Args", "Image", "Name", "GraphDriver", "Mounts", "Driver", "State"):
            assert ours[key] == theirs[key], (name, key)
        for part in ("Config", "HostConfig"):
            for key, value in theirs[part].items():
                assert ours[part].get(key, value) == value, (name, part, key)


def test_logs(left: Left) -> None:
    log = left.tool("logs", "-t", "ran")
    assert (log.stdout, log.stderr) == left.log


def test_diff(left: Left) -> None:
    assert sorted(left.tool.good("diff", "ran").splitlines()) == left.diff


def test_run(left: Left) -> None:
    look = "cat /data/two; ls /data; cat /pointer; stat -c '%u %g %a %h' /owned; stat -c %F /pipe /null"
    expected = "two\ndeep\ntwo\ntwo\n3000000 12345 4755 2\nfifo\ncharacter special file"
    assert left.tool.good("run", "--rm", "odd:1", "sh", "-c", look) == expected
    assert (
        left.tool.good("run", "--rm", "theirs:1", "sh", "-c", "cat /data/new; echo $X; ls /data")
        == "new\ny\ndeep\nlink\nnew\ntwo"
    )


def test_create(left: Left) -> None:
    made = left.tool.good("create", "theirs:1", "cat", "/data/new")
    assert left.tool.good("start", "-a", made) == "new"
    left.tool.good("rm", made)


def test_start(left: Left) -> None:
    assert left.tool.good("start", "-a", "fresh") == "bound"
    again = left.tool("start", "-a", "twin")
    assert (again.returncode, again.stdout) == (3, "out\n")
    assert left.tool.good("logs", "twin").splitlines() == ["out", "out"]


def test_exec_stop_wait_and_kill(left: Left) -> None:
    left.tool.good("start", "sleeper")
    assert left.tool.good("exec", "sleeper", "id", "-un") == "alice"
    assert left.tool.good("ps", "--format", "{{.Names}}") == "sleeper"
    left.tool.good("stop", "sleeper")
    assert left.tool.good("wait", "sleeper") == "137"
    left.tool.good("start", "sleeper")
    left.tool.good("kill", "-s", "KILL", "sleeper")
    assert left.tool.good("wait", "sleeper") == "137"


def test_commit(left: Left, release: Release) -> None:
    left.tool.good("commit", "--engine", release.label, "-m", "by us", "ran", "ours:1")
    ours = json.loads(left.tool.good("inspect", "ours:1"))[0]["RootFS"]["Layers"]
    assert ours == left.facts["theirs:1"]["RootFS"]["Layers"]
    assert (left.engine.root / "image/overlay2/layerdb/sha256" / chain_id(ours)[7:]).is_dir()
    left.tool.good("rmi", "ours:1")


def test_save(left: Left, scratch: Path) -> None:
    left.tool.good("save", "-o", scratch / "ours.tar", *left.specs, "theirs:1")
    digests, diff_ids = saved_layers(scratch / "ours.tar")
    for spec in left.specs.values():
        assert [builders.sha256(layer) for layer in spec.layers] in diff_ids
        assert digests >= {builders.sha256(layer) for layer in spec.layers}
    assert digests >= {left.facts["theirs:1"]["Id"], *left.facts["theirs:1"]["RootFS"]["Layers"]}
    # What either saved is the same images, for whoever loads it.
    form = ("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
    ids = {name: left.facts[name]["Id"] for name in (*left.specs, "theirs:1")}
    for archive in (scratch / "ours.tar", left.saved):
        other = Tool(scratch / archive.stem, archive)
        assert dict(line.split() for line in other.good(*form).splitlines()) == ids


def test_load(left: Left) -> None:
    place = left.engine.root / "image/overlay2"
    before = sorted(os.listdir(place / "layerdb/sha256"))
    left.tool.good("load", "-i", left.archive)
    assert sorted(os.listdir(place / "layerdb/sha256")) == before
    assert sorted(left.tool.good("images", "-a", "--no-trunc", "--format", IMAGES).splitlines()) == left.images


def test_export_and_import(left: Left, release: Release, scratch: Path) -> None:
    left.tool.good("export", "--engine", release.label, "-o", scratch / "ours.tar", "ran")
    theirs = left.exported.read_bytes()
    assert (scratch / "ours.tar").read_bytes() == theirs
    made = left.tool.good("import", left.exported, "imported:1")
    assert json.loads(left.tool.good("inspect", made))[0]["RootFS"]["Layers"] == [builders.sha256(theirs)]
    assert left.tool.good("run", "--rm", "imported:1", "cat", "/data/new") == "new"
    left.tool.good("rmi", "imported:1")


def test_tag(left: Left) -> None:
    left.tool.good("tag", "odd:1", "odd:new")
    assert left.tool.good("rmi", "odd:new") == "Untagged: odd:new"
    assert sorted(left.tool.good("images", "-a", "--no-trunc", "--format", IMAGES).splitlines()) == left.images


def test_rmi(left: Left) -> None:
    chain = left.engine.root / "image/overlay2/layerdb/sha256" / builders.sha256(left.specs["gone:1"].layers[0])[7:]
    layer = left.engine.root / "overlay2" / (chain / "cache-id").read_text()
    link = left.engine.root / "overlay2/l" / (layer / "link").read_text()
    assert link.is_symlink()
    lines = left.tool.good("rmi", "gone:1").splitlines()
    assert lines == ["Untagged: gone:1", f"Deleted: {left.facts['gone:1']['Id']}", f"Deleted: sha256:{chain.name}"]
    assert not chain.exists()
    assert not layer.exists()
    assert not link.is_symlink()
    # An image that docker committed: with a parent, and from 25 on with a mark that it was made here.
    image, layers = left.facts["extra:1"]["Id"], left.facts["extra:1"]["RootFS"]["Layers"]
    metadata = left.engine.root / "image/overlay2/imagedb/metadata/sha256" / image[7:]
    assert (metadata / "parent").read_text() == left.facts[BOX]["Id"]
    lines = left.tool.good("rmi", "extra:1").splitlines()
    assert lines == ["Untagged: extra:1", f"Deleted: {image}", f"Deleted: {chain_id(layers)}"]
    assert not metadata.exists()
    assert left.tool.inspect(BOX)["Id"] == left.facts[BOX]["Id"]


def test_rm(left: Left) -> None:
    container = left.containers["removed"]
    upper = Path(container["GraphDriver"]["Data"]["UpperDir"]).parent
    assert upper.is_dir()
    left.tool.good("rm", "removed")
    assert not upper.exists()
    assert not Path(f"{upper}-init").exists()
    assert not (left.engine.root / "containers" / container["Id"]).exists()
    assert not (left.engine.root / "image/overlay2/layerdb/mounts" / container["Id"]).exists()


def test_what_minidock_does_not_know_is_kept(left: Left) -> None:
    for name in ("fresh", "twin", "sleeper", "kept"):
        assert left.unknown(name) == UNKNOWN, name
    started = left.tool("start", "-a", "kept")
    assert (started.returncode, started.stdout, started.stderr) == (0, "", "")
    assert left.unknown("kept") == UNKNOWN
    theirs = left.containers["kept"]["HostConfig"]
    path = left.engine.root / "containers" / left.containers["kept"]["Id"] / "hostconfig.json"
    document = json.loads(path.read_text())
    assert (document["Memory"], document["RestartPolicy"], document["Dns"]) == (
        theirs["Memory"],
        theirs["RestartPolicy"],
        theirs["Dns"],
    )


def test_rename_and_restart(left: Left) -> None:
    left.tool.good("rename", "kept", "renamed")
    assert left.tool.inspect("renamed")["Id"] == left.containers["kept"]["Id"]
    assert left.tool("inspect", "kept").returncode == 1
    left.tool.good("start", "sleeper")
    before = left.tool.inspect("sleeper")["State"]["Pid"]
    left.tool.good("restart", "-t", "0", "sleeper")
    assert left.tool.inspect("sleeper")["State"]["Pid"] not in (0, before)
    left.tool.good("kill", "sleeper")


def test_a_live_engine_is_read_and_not_written(left: Left) -> None:
    """Last: the engine comes back, finds everything in order, and keeps minidock from writing."""
    left.engine.start()
    process = left.engine.process
    assert process is not None
    for words in WRITES:
        refused = left.tool(*words)
        assert refused.returncode != 0, words
        assert f"dockerd (pid {process.pid}) is running on the data root" in refused.stderr.splitlines()[0], words
        assert refused.stdout == ""
    refused = left.tool("load", "-i", left.archive)
    assert f"dockerd (pid {process.pid}) is running" in refused.stderr
    left.engine.docker("start", "sleeper")
    theirs = _facts(left.engine, "sleeper")["State"]
    assert left.tool.inspect("sleeper")["State"] == theirs
    assert left.tool.good("ps", "--format", "{{.Names}} {{.State}}") == "sleeper running"
    assert left.tool.good("exec", "sleeper", "id", "-un") == "alice"
    for words in (("rm", "-f", "sleeper"), ("commit", "sleeper"), ("rmi", "-f", "odd:1")):
        refused = left.tool(*words)
        assert (refused.returncode, f"dockerd (pid {process.pid})" in refused.stderr) == (1, True), words
    assert _facts(left.engine, "sleeper")["State"] == theirs
    left.engine.docker("pause", "sleeper")
    assert left.tool.status("sleeper") == "paused"
    left.engine.docker("unpause", "sleeper")
    assert left.tool.status("sleeper") == "running"
    assert "theirs:1" in left.tool.good("images", "--format", "{{.Repository}}:{{.Tag}}")
    assert left.tool("logs", "-t", "ran").stdout == left.log[0]
    assert sorted(left.tool.good("diff", "ran").splitlines()) == left.diff
    assert left.tool.good("cp", "ran:/etc/passwd", "-").startswith("passwd\0")
    assert left.tool("cp", str(left.archive), "ran:/tmp").returncode == 1
    left.engine.docker("kill", "sleeper")
    assert left.engine.docker("start", "-a", "fresh").stdout == "bound\n"
    rows = left.engine.docker("ps", "-a", "--format", "{{.Names}}").stdout.split()
    assert set(rows) >= {"fresh", "ran", "sleeper", "twin"}
    left.engine.docker("rm", *rows)
    left.engine.docker("image", "prune", "-a", "-f")
    left.engine.stop()
    assert left.tool.good("images", "-aq") == ""
    assert left.tool.good("ps", "-aq") == ""


def test_an_engine_started_while_minidock_writes_gives_up(release: Release, new_engine_of: NewEngine) -> None:
    engine = new_engine_of(release)
    engine.start()
    engine.stop()
    with DataRoot.open(str(engine.root)) as root, root.lock(), pytest.raises(AssertionError, match="did not start"):
        engine.start()
    engine.stop()
    assert "error while opening volume store metadata database" in (engine.base / "log").read_text()
    engine.start()
    engine.stop()


def test_a_running_container_keeps_the_engine_out(
    release: Release, new_engine_of: NewEngine, busybox_archive: Path
) -> None:
    engine = new_engine_of(release)
    engine.start()
    engine.stop()
    tool = Tool(engine.root, busybox_archive)
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "1000")
    try:
        with pytest.raises(AssertionError, match="did not start"):
            engine.start()
        engine.stop()
        assert "error while opening volume store metadata database" in (engine.base / "log").read_text()
        assert tool.good("exec", "box", "cat", "/data/two") == "two"
    finally:
        tool("rm", "-f", "box")
    engine.start()
    engine.stop()


def remove_groups(name: str) -> None:
    """Take away the control groups that nobody has removed: their shim was killed."""
    hierarchies = Path("/sys/fs/cgroup")
    for path in (*hierarchies.glob(name), *hierarchies.glob(f"*/{name}")):
        wait_until(lambda path=path: not (path / "cgroup.procs").read_text(), f"the end of all processes in {path}")
        path.rmdir()


def test_containers_that_outlive_a_killed_engine(
    release: Release, new_engine_of: NewEngine, busybox_archive: Path
) -> None:
    """Their upper directories are mounted still: minidock sees that and starts or removes none of them."""
    engine = new_engine_of(release)
    engine.start()
    engine.docker("load", "-i", busybox_archive)
    engine.docker("run", "-d", "--network", "none", "--name", "left", BOX, "sleep", "1000")
    assert engine.process is not None
    engine.process.kill()
    engine.process.wait()
    tool = Tool(engine.root, busybox_archive)
    process = Path(f"/proc/{tool.inspect('left')['State']['Pid']}/stat").read_text()
    shim = int(process.rpartition(")")[2].split()[1])
    try:
        assert tool.status("left") == "running"
        assert tool("rm", "left").returncode == 1
        assert "image is being used by running container" in tool("rmi", "-f", tool.inspect("left")["Image"]).stderr
        assert tool.good("start", "left") == "left"
        assert tool.good("exec", "left", "ls", "/data") == "deep\none\ntwo"
        told = tool("commit", "--explain", "left", "still:1")
        assert (told.returncode, told.stderr.count("freeze /sys/fs/cgroup/")) == (0, 1), told.stderr
        for verb, state in (("pause", "paused"), ("unpause", "running")):
            tool.good(verb, "left")
            assert tool.status("left") == state
    finally:
        tool("kill", "left")
        os.kill(shim, 9)
        remove_groups(f"docker/{tool.inspect('left')['Id']}")
    assert tool.status("left") == "exited"
    # Sockets of a containerd that died with its dockerd; what is below the data root is what counts.
    unmount_below(engine.base / "exec")
    shutil.rmtree(engine.base / "exec")
    engine.start()
    assert engine.docker("ps", "-a", "--format", "{{.State}}").stdout == "exited\n"
    engine.stop()
