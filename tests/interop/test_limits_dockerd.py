"""Limits against dockerd 20.10: the same words give the same files, records and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minidock.runtime.cgroup import hierarchies
from tests.conftest import Engine
from tests.integration.tool import Tool

BOX = "busybox:test"
FILES = (
    "memory.limit_in_bytes memory.memsw.limit_in_bytes memory.soft_limit_in_bytes memory.swappiness memory.oom_control "
    "cpu.shares cpu.cfs_period_us cpu.cfs_quota_us cpuset.cpus cpuset.mems pids.max"
).split()
WORDS = (
    "",
    "-m 64m",
    "-m 64m --memory-swap 96m --memory-reservation 32m --memory-swappiness 9",
    "-m 64m --memory-swap -1",
    "-m 64m --oom-kill-disable",
    "--cpus 0.75 -c 300 --cpuset-cpus 0 --cpuset-mems 0",
    "--cpu-period 20000 --cpu-quota 5000",
    "--pids-limit 17",
    "--pids-limit 0 --memory-swappiness 0",
    "--blkio-weight 300 -m 7m",
    "--kernel-memory 64m --cgroup-parent /life-parent",
    "--isolation default --runtime runc --disable-content-trust --volume-driver local",
)
REFUSED = (
    "-m 1m",
    "-m x",
    "-m 64m --memory-swap 32m",
    "--memory-swap 64m",
    "--memory-swap -3",
    "--memory-reservation 1m",
    "-m 16m --memory-reservation 32m",
    "--memory-swappiness 101",
    "--cpus 4000",
    "--cpus -1",
    "--cpus x",
    "--cpus 1.0000000001",
    "--cpus 1 --cpu-quota 5000",
    "--cpus 1 --cpu-period 5000",
    "--cpu-quota 5",
    "--cpu-period 5",
    "--cpuset-cpus 99",
    "--cpuset-cpus x",
    "--cpuset-mems 77",
    "--device-read-bps sda:1mb",
    "--device-read-bps /dev/sda",
    "--device-write-bps /dev/sda:x",
    "--device-read-iops /dev/sda:1mb",
    "--device-write-iops sda:4",
    "--blkio-weight-device /dev/sda:5",
    "--cpu-rt-period 1000 --cpu-rt-runtime 2000",
    "--kernel-memory x",
    "--cgroupns other",
    "--isolation hyperv",
    "--runtime other",
    "--device-cgroup-rule x",
    "--device-cgroup-rule c:1:3",
    "--storage-opt size=1g",
    "--kernel-memory 1m",
    "--gpus all",
)
UPDATES = ("", "-m 128m", "--cpu-period 5000", "-m 16m", "--cpus 4000", "--memory-reservation 1m")


@pytest.fixture(scope="module")
def both(dockerd: Engine, session_scratch: Path, busybox_archive: Path) -> Iterator[tuple[Tool, Engine]]:
    """minidock and an engine, each on its own root with the same image."""
    tool = Tool(session_scratch / "limits-root", busybox_archive)
    dockerd.docker("load", "-i", busybox_archive)
    yield tool, dockerd
    tool.close()


def inside(container_id: str) -> dict[str, str]:
    """The limits that the kernel holds for a container, whoever started it."""
    found: dict[str, str] = {}
    for each in hierarchies():
        for path in Path(each.mount_point).glob(f"*/{container_id}"):
            found.update({name: (path / name).read_text() for name in FILES if (path / name).exists()})
    return found


def limits(host: dict[str, Any]) -> dict[str, Any]:
    """The part of HostConfig that is about limits."""
    words = ("Cpu", "Memory", "Nano", "Blkio", "Pids", "Oom", "IOM", "Kernel")
    return {key: value for key, value in host.items() if key.startswith(words)}


@pytest.mark.parametrize("words", WORDS)
def test_files_and_records_are_equal(words: str, both: tuple[Tool, Engine]) -> None:
    tool, engine = both
    command = ("run", "-d", "--network", "none", "--name", "limited", *words.split(), BOX, "sleep", "600")
    theirs = engine.docker(*command)
    ours = tool(*command)
    try:
        assert ours.returncode == theirs.returncode == 0
        assert sorted(ours.stderr.splitlines()) == sorted(theirs.stderr.splitlines())
        their_id = theirs.stdout.strip()
        document = json.loads(engine.docker("inspect", "limited").stdout)[0]
        assert limits(tool.inspect("limited")["HostConfig"]) == limits(document["HostConfig"])
        their_files = inside(their_id)
        assert "memory.limit_in_bytes" in their_files
        assert inside(ours.stdout.strip()) == their_files
    finally:
        engine.docker("rm", "-f", "limited", check=False)
        tool("rm", "-f", "limited")
        # Either leaves the group above.
        for path in Path("/sys/fs/cgroup").glob("*/life-parent"):
            path.rmdir()


def reason(text: str) -> str:
    """The words of a refusal, without who says them and how to get help."""
    line = text.splitlines()[0] if text else ""
    for prefix in ("minidock: ", "docker: ", "Error response from daemon: "):
        line = line.removeprefix(prefix)
    return line.rstrip(".")


@pytest.mark.parametrize("words", REFUSED)
def test_refusals_are_equal(words: str, both: tuple[Tool, Engine]) -> None:
    tool, engine = both
    command = ("run", "--rm", "--network", "none", *words.split(), BOX, "true")
    theirs, ours = engine.docker(*command, check=False), tool(*command)
    assert theirs.returncode == ours.returncode == 125
    assert reason(ours.stderr) == reason(theirs.stderr)


def test_updates_are_equal(both: tuple[Tool, Engine]) -> None:
    tool, engine = both
    create = ("run", "-d", "--network", "none", "--name", "changing", "-m", "64m", "--cpus", "0.5", BOX, "sleep", "600")
    calls: tuple[Callable[..., Any], ...] = (lambda *w: engine.docker(*w, check=False), tool)
    their_id, our_id = (call(*create).stdout.strip() for call in calls)
    try:
        for words in UPDATES:
            theirs, ours = (call("update", *words.split(), "changing") for call in calls)
            assert ours.returncode == theirs.returncode, words
            assert reason(ours.stderr).replace(our_id, "") == reason(theirs.stderr).replace(their_id, ""), words
            assert inside(our_id) == inside(their_id), words
    finally:
        engine.docker("rm", "-f", "changing")
        tool("rm", "-f", "changing")


def test_words_about_paused_containers_are_equal(both: tuple[Tool, Engine]) -> None:
    tool, engine = both
    create = ("run", "-d", "--network", "none", "--name", "still", BOX, "sleep", "600")
    calls: tuple[Callable[..., Any], ...] = (lambda *w: engine.docker(*w, check=False), tool)
    their_id, our_id = (call(*create).stdout.strip() for call in calls)
    try:
        for words in (
            "unpause",
            "pause",
            "pause",
            "start",
            "rm",
            "exec still true",
            "attach",
            "unpause",
            "kill",
            "pause",
            "unpause",
            "top",
        ):
            line = words.split() if " " in words else [words, "still"]
            theirs, ours = (call(*line) for call in calls)
            assert ours.stdout == theirs.stdout, words
            assert ours.returncode == theirs.returncode, words
            assert reason(ours.stderr).replace(our_id, "") == reason(theirs.stderr).replace(their_id, ""), words
    finally:
        engine.docker("rm", "-f", "still")
        tool("rm", "-f", "still")


def test_tables_are_equal(both: tuple[Tool, Engine]) -> None:
    tool, engine = both
    create = ("run", "-d", "--network", "none", "--name", "shown", "-m", "64m", BOX, "sleep", "600")
    calls: tuple[Callable[..., Any], ...] = (lambda *w: engine.docker(*w, check=False), tool)
    for call in calls:
        assert call(*create).returncode == 0
    try:
        theirs, ours = (call("top", "shown").stdout.splitlines() for call in calls)
        assert ours[0] == theirs[0]
        assert ours[1].index("sleep 600") == theirs[1].index("sleep 600")
        theirs, ours = (call("top", "shown", "-eo", "pid,args").stdout.splitlines() for call in calls)
        assert ours[0] == theirs[0]
        template = "{{.Name}} {{.MemUsage}} {{.NetIO}} {{.PIDs}}"
        theirs, ours = (call("stats", "--no-stream", "--format", template, "shown").stdout.split() for call in calls)
        # What sleep itself uses is not the same to the byte; its limit and the rest are.
        assert ours[:1] + ours[2:] == theirs[:1] + theirs[2:]
    finally:
        engine.docker("rm", "-f", "shown")
        tool("rm", "-f", "shown")
