"""Containers handed over between minidock and dockerd 20.10 on one data root, both ways; and their words compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minidock.store.root import DataRoot
from minidock.verbs.create import create
from minidock.verbs.inspect_container import inspect_container
from minidock.verbs.options import CreateOptions
from minidock.verbs.ps import ps
from tests import builders
from tests.conftest import Engine
from tests.integration.tool import Tool

BOX = "busybox:test"
WRITE = "echo out; echo err >&2; echo new > /data/new; rm -f /data/one; exit 3"


@pytest.fixture
def shared(new_engine: Callable[[], Engine], busybox_archive: Path) -> Iterator[tuple[Tool, Engine]]:
    """A root that minidock has filled, and an engine on it that has not been started yet."""
    engine = new_engine()
    engine.base.mkdir(parents=True, exist_ok=True)
    tool = Tool(engine.root, busybox_archive)
    yield tool, engine
    engine.stop()
    tool("rm", "-f", *tool.good("ps", "-aq").split())


def facts(engine: Engine, name: str) -> dict[str, Any]:
    """What docker says of one container."""
    found: dict[str, Any] = json.loads(engine.docker("inspect", name).stdout)[0]
    return found


def test_docker_takes_our_stopped_containers_over(shared: tuple[Tool, Engine], scratch: Path) -> None:
    tool, engine = shared
    tool("run", "--name", "ran", "-l", "a=b", BOX, "sh", "-c", WRITE)
    words = ("--network", "none", "--name", "fresh", "-e", "A=1", "-v", f"{scratch}:/host:ro", "--tmpfs", "/t")
    tool.good("create", *words, BOX, "cat", "/host/f")
    tool.good("create", "--rm", "--name", "brief", BOX, "true")
    tool("run", "--name", "broken", BOX, "nosuch")
    (scratch / "f").write_text("bound\n")
    ours = {name: tool.inspect(name) for name in ("ran", "fresh", "broken")}
    changes = tool.good("diff", "ran")
    engine.start()
    rows = engine.docker("ps", "-a", "--format", "{{.Names}}|{{.Image}}|{{.State}}|{{.Command}}").stdout.splitlines()
    assert rows == [
        'broken|busybox:test|created|"nosuch"',
        'brief|busybox:test|created|"true"',
        'fresh|busybox:test|created|"cat /host/f"',
        'ran|busybox:test|exited|"sh -c \'echo out; ec…"',
    ]
    for name, document in ours.items():
        theirs = facts(engine, name)
        for key in ("Id", "Created", "Path", "Args", "Image", "Name", "Config", "GraphDriver", "Mounts", "Driver"):
            assert theirs[key] == document[key], key
        for key in ("Status", "ExitCode", "StartedAt", "FinishedAt", "Error", "Running"):
            assert theirs["State"][key] == document["State"][key], key
    log = engine.docker("logs", "ran")
    assert (log.stdout, log.stderr) == ("out\n", "err\n")
    assert sorted(engine.docker("diff", "ran").stdout.splitlines()) == sorted(changes.splitlines())
    again = engine.docker("start", "-a", "fresh")
    assert again.stdout == "bound\n"
    engine.docker("commit", "ran", "committed:1")
    engine.docker("rm", "ran", "fresh", "broken", "brief")
    engine.stop()
    assert tool.good("ps", "-aq") == ""
    assert not [name for name in (tool.root / "overlay2").iterdir() if name.name.endswith("-init")]
    done = tool("run", "--rm", "committed:1", "cat", "/data/new", "/data/one")
    assert done.stdout == "new\n"
    assert done.returncode == 1


def test_we_take_docker_s_containers_over(shared: tuple[Tool, Engine], scratch: Path) -> None:
    tool, engine = shared
    (scratch / "f").write_text("bound\n")
    engine.start()
    words = ("create", "--network", "none")
    engine.docker(
        *words, "--name", "box", "-v", f"{scratch}:/host:ro", "-e", "A=1", BOX, "sh", "-c", "cat /host/f; echo $A"
    )
    engine.docker(*words, "--name", "user", "-u", "alice", "--tmpfs", "/t:size=1m", "--init", BOX, "id", "-u")
    engine.docker("run", "--network", "none", "--name", "ran", BOX, "sh", "-c", WRITE, check=False)
    theirs = {name: facts(engine, name) for name in ("box", "user", "ran")}
    engine.stop()
    # What a newer engine may have added must survive our own writes.
    config = tool.root / "containers" / theirs["box"]["Id"] / "config.v2.json"
    document = {**json.loads(config.read_text()), "ImageManifest": {"digest": "kept"}}
    config.write_text(json.dumps(document))
    for name, document in theirs.items():
        ours = tool.inspect(name)
        for key in ("Id", "Created", "Path", "Args", "Image", "Name", "Config", "GraphDriver", "HostConfig", "State"):
            assert ours[key] == document[key], key
    log = tool("logs", "ran")
    assert (log.stdout, log.stderr) == ("out\n", "err\n")
    assert tool.good("start", "-a", "box") == "bound\n1"
    assert tool.good("start", "-a", "user") == "1000"
    assert tool("start", "-a", "ran").returncode == 3
    assert json.loads(config.read_text())["ImageManifest"] == {"digest": "kept"}
    engine.start()
    assert facts(engine, "box")["State"]["ExitCode"] == 0
    log = engine.docker("logs", "ran")
    assert (log.stdout, log.stderr) == ("out\nout\n", "err\nerr\n")
    assert engine.docker("start", "-a", "box").stdout == "bound\n1\n"
    engine.docker("rm", "box", "user", "ran")


def test_docker_is_kept_out_while_a_container_runs(shared: tuple[Tool, Engine]) -> None:
    tool, engine = shared
    engine.start()
    engine.stop()
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "100")
    # dockerd waits one second for the lock on its volume database, and gives up.
    with pytest.raises(AssertionError, match="dockerd did not start"):
        engine.start()
    engine.stop()
    assert tool.status("box") == "running"
    tool.good("rm", "-f", "box")
    engine.start()
    done = tool("run", "--rm", BOX, "true")
    assert done.returncode == 125
    assert "dockerd" in done.stderr


OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    ((), {}),
    (("-i", "-t"), {"interactive": True, "tty": True}),
    (
        ("-e", "A=1", "-l", "x=y", "-w", "/w/../v", "-u", "1000", "--hostname", "inside", "--read-only"),
        {
            "env": ["A=1"],
            "labels": ["x=y"],
            "workdir": "/w/../v",
            "user": "1000",
            "hostname": "inside",
            "read_only": True,
        },
    ),
    (
        ("--cap-add", "sys_admin", "--cap-drop", "NET_RAW", "--init", "--tmpfs", "/t:size=1m"),
        {"cap_add": ["sys_admin"], "cap_drop": ["NET_RAW"], "init": True, "tmpfs": ["/t:size=1m"]},
    ),
    (("--privileged",), {"privileged": True}),
    (
        ("-v", "/tmp:/mnt:ro", "--mount", "type=bind,src=/etc,dst=/etc2,readonly"),
        {"volumes": ["/tmp:/mnt:ro"], "mounts": ["type=bind,src=/etc,dst=/etc2,readonly"]},
    ),
    (("--entrypoint", "/bin/echo"), {"entrypoint": "/bin/echo"}),
    (("--network", "host"), {"network": "host"}),
    (("--stop-signal", "USR1", "--stop-timeout", "3"), {"stop_signal": "USR1", "stop_timeout": 3}),
)


def keys_of(value: Any, where: str = "") -> list[str]:
    """Every path of keys in a document, in its order."""
    if not isinstance(value, dict):
        return [where]
    return [where, *(path for key, inner in value.items() for path in keys_of(inner, f"{where}/{key}"))]


@pytest.mark.parametrize(("words", "options"), OPTIONS)
def test_create_and_inspect_say_what_docker_says(
    dockerd: Engine,
    data_root: DataRoot,
    busybox_layer: bytes,
    scratch: Path,
    words: tuple[str, ...],
    options: dict[str, Any],
) -> None:
    from minidock.verbs.pull_tar import pull_tar

    document = {
        "Env": ["PATH=/bin", "B=2", "A=0"],
        "Cmd": ["sh"],
        "Labels": {"of": "image"},
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGINT",
        "WorkingDir": "/start",
    }
    config = builders.image_config([busybox_layer], config=document)
    archive = builders.docker_archive(
        scratch / "say.tar", builders.ImageSpec([busybox_layer], tags=["say:1"], config=config)
    )
    dockerd.docker("load", "-i", archive)
    pull_tar(data_root, str(archive))
    made = dockerd.docker("create", "--name", "said", *words, "say:1", "echo", "a b").stdout.strip()
    try:
        theirs = json.loads(dockerd.docker("inspect", made).stdout)[0]
        row = dockerd.docker("ps", "-a", "--no-trunc", "--filter", "name=said", "--format", "{{json .}}").stdout
        raw = json.loads((dockerd.root / "containers" / made / "config.v2.json").read_text())
    finally:
        dockerd.docker("rm", made)
        dockerd.docker("rmi", "say:1")
    # docker create always attaches, as `run` without -d does
    container = create(data_root, "say:1", ["echo", "a b"], CreateOptions(name="said", **options))
    ours = inspect_container(data_root, "said")
    assert keys_of(ours) == keys_of(theirs)
    for key in ("Path", "Args", "State", "Image", "Name", "HostConfig", "Mounts", "Config", "Driver", "Platform"):
        mine, other = ours[key], theirs[key]
        if key == "Config" and not options.get("hostname") and not options.get("network"):
            assert mine["Hostname"] == container.id[:12]
            mine, other = {**mine, "Hostname": ""}, {**other, "Hostname": ""}
        if key == "Mounts":
            # Go's maps have no order
            other = sorted(other, key=lambda mount: str(mount["Destination"]))
        if key == "HostConfig":
            # Docker's default on cgroup v1 is the host's namespace, for old kernels' sake; ours is docker's on v2.
            assert other["CgroupnsMode"] in ("host", "private")
            other["CgroupnsMode"] = "private"
            # Newer clients send the capabilities' full names, as we write them.
            for way in ("CapAdd", "CapDrop"):
                other[way] = [f"CAP_{name.upper()}" for name in other[way]] if other[way] else other[way]
        assert mine == other, key
    assert list(container.document) == list(raw)
    assert container.document["MountPoints"] == raw["MountPoints"]
    shown = ps(data_root, all=True)[0]
    parsed = json.loads(row)
    assert [shown.names, shown.image, f'"{shown.command}"', shown.status, shown.state, shown.ports] == [
        parsed["Names"],
        parsed["Image"],
        parsed["Command"],
        parsed["Status"],
        parsed["State"],
        parsed["Ports"],
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("-v", "/nonex:/"),
        ("-v", "rel/x:/y"),
        ("-v", "/a:b"),
        ("-v", "/a:/b:bad"),
        ("-v", "/tmp:/a", "-v", "/etc:/a"),
        ("--mount", "type=bind,src=/nonex,dst=/x"),
        ("--mount", "type=bind,src=a,dst=/b"),
        ("--mount", "type=bind,dst=/b"),
        ("--tmpfs", "rel"),
        ("--name", "a"),
        ("--cap-add", "foo"),
        ("-w", "rel"),
    ],
)
def test_refusals_in_docker_s_words(
    dockerd: Engine, data_root: DataRoot, busybox_archive: Path, words: tuple[str, ...]
) -> None:
    from minidock.errors import MinidockError
    from minidock.verbs.pull_tar import pull_tar

    dockerd.docker("load", "-i", busybox_archive)
    pull_tar(data_root, str(busybox_archive))
    theirs = dockerd.docker("create", "--network", "none", *words, BOX, "true", check=False)
    assert theirs.returncode == 1
    keys = {"-v": "volumes", "--mount": "mounts", "--tmpfs": "tmpfs", "--cap-add": "cap_add"}
    options: dict[str, Any] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        if flag in keys:
            options.setdefault(keys[flag], []).append(value)
        else:
            options[{"--name": "name", "-w": "workdir"}[flag]] = value
    with pytest.raises(MinidockError) as caught:
        create(data_root, BOX, ["true"], CreateOptions(**options))
    assert caught.value.message == theirs.stderr.strip().removeprefix("Error response from daemon: ")
