"""stats, top and update against containers that run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

import pytest

from tests.conftest import missing
from tests.integration.test_limits import group_file, is_v1
from tests.integration.tool import Tool, command, wait_until
from tests.patience import patience

BOX = "busybox:test"


def stats(tool: Tool, *words: str) -> list[dict[str, Any]]:
    """The rows of one look."""
    lines = tool.good("stats", "--no-stream", "--format", "json", *words).splitlines()
    return [json.loads(line) for line in lines]


def test_stats_are_plausible(tool: Tool) -> None:
    spin = "sleep 600 & sleep 601 & while :; do :; done"
    tool.good("run", "-d", "--name", "busy", "-m", "64m", "--cpus", "0.5", BOX, "sh", "-c", spin)
    tool.good("run", "-d", "--name", "idle", "--network", "none", BOX, "sleep", "600")
    tool.good("create", "--name", "still", BOX, "true")
    rows = {row["Name"]: row for row in stats(tool)}
    assert set(rows) == {"busy", "idle"}
    assert 1 < float(rows["busy"]["CPUPerc"].rstrip("%")) < 80, "half a CPU, on a machine that others use too"
    assert float(rows["idle"]["CPUPerc"].rstrip("%")) < 5
    assert rows["busy"]["PIDs"] == "3"
    assert rows["idle"]["PIDs"] == "1"
    used, _, limit = rows["busy"]["MemUsage"].partition(" / ")
    assert limit == "64MiB"
    assert used.endswith(("KiB", "MiB")) and not used.startswith("0")
    assert rows["idle"]["NetIO"] == "0B / 0B"
    (row,) = stats(tool, "still")
    assert (row["CPUPerc"], row["MemUsage"], row["PIDs"]) == ("0.00%", "0B / 0B", "0")
    assert {row["Name"] for row in stats(tool, "-a")} == {"busy", "idle", "still"}
    head = tool.good("stats", "--no-stream").splitlines()[0]
    assert head.split("   ")[0] == "CONTAINER ID"
    assert "MEM USAGE / LIMIT" in head
    done = tool("stats", "--no-stream", "nosuch")
    assert (done.returncode, "No such container: nosuch" in done.stderr) == (1, True)


def test_stats_go_on_until_interrupted(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "idle", "--network", "none", BOX, "sleep", "600")
    process = tool.start("stats", stdout=subprocess.PIPE)
    assert process.stdout is not None
    seen = b""
    while seen.count(b"CONTAINER ID") < 2:
        seen += os.read(process.stdout.fileno(), 4096)
    process.send_signal(2)
    process.wait(patience(10))
    process.stdout.close()
    assert b"\x1b[2J\x1b[H" in seen


def test_top_agrees_with_the_hosts_ps(tool: Tool) -> None:
    if not shutil.which("ps"):
        missing("ps is not installed")
    tool.good("run", "-d", "--name", "box", "-u", "1234", BOX, "sh", "-c", "sleep 600 & sleep 601 & wait")
    wait_until(lambda: len(tool.good("top", "box").splitlines()) == 4, "both children")
    ours = [line.split(maxsplit=7) for line in tool.good("top", "box").splitlines()]
    assert ours[0] == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    pids = [row[1] for row in ours[1:]]
    theirs = subprocess.run(["ps", "-wwf", "-p", ",".join(pids)], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=7) for line in theirs.splitlines()[1:]]
    # Share and start time may tick over between the two looks.
    assert [row[:3] + row[5:] for row in ours[1:]] == [
        row[:3] + row[5:] for row in sorted(rows, key=lambda r: int(r[1]))
    ]
    chosen = [line.split(maxsplit=1) for line in tool.good("top", "box", "-eo", "pid,args").splitlines()]
    assert chosen[0] == ["PID", "COMMAND"]
    assert sorted(row[0] for row in chosen[1:]) == sorted(pids)
    done = tool("top", "box", "-eo", "args")
    assert (done.returncode, "Couldn't find PID field in ps output" in done.stderr) == (1, True)


@pytest.mark.many
def test_top_tells_of_every_process(tool: Tool) -> None:
    """More than the kernel hands out of a group's list at a time."""
    script = "i=0; while [ $i -lt 900 ]; do sleep 1000 & i=$((i+1)); done; echo all; wait"
    tool.good("run", "-d", "--name", "crowd", "--network", "none", "busybox:test", "sh", "-c", script)
    wait_until(lambda: tool.good("logs", "crowd") == "all", "all processes", timeout_s=60)
    assert len(tool.good("top", "crowd", "-eo", "pid").splitlines()) == 1 + 901
    tool.good("rm", "-f", "crowd")


def test_top_without_ps_and_without_a_process(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "600")
    environment = {**tool.environment, "PATH": "/nowhere"}
    plain = subprocess.run(command("top", "box"), env=environment, capture_output=True, text=True)
    assert plain.stdout.splitlines()[1].endswith("sleep 600")
    other = subprocess.run(command("top", "box", "aux"), env=environment, capture_output=True, text=True)
    assert (other.returncode, "ps is not installed on this host" in other.stderr) == (1, True)
    tool.good("rm", "-f", "box")
    tool.good("create", "--name", "still", BOX, "true")
    done = tool("top", "still")
    assert (done.returncode, "is not running" in done.stderr) == (1, True)


def test_update_while_it_runs(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", "-m", "32m", BOX, "sleep", "600")
    words = (
        "-m",
        "48m",
        "--memory-swap",
        "96m",
        "--cpus",
        "0.25",
        "-c",
        "99",
        "--pids-limit",
        "7",
        "--cpuset-cpus",
        "0",
    )
    assert tool.good("update", *words, "box") == "box"
    for controller, v1, v1_value, v2, v2_value in (
        ("memory", "memory.limit_in_bytes", str(48 << 20), "memory.max", str(48 << 20)),
        ("memory", "memory.memsw.limit_in_bytes", str(96 << 20), "memory.swap.max", str(48 << 20)),
        ("cpu", "cpu.cfs_quota_us", "25000", "cpu.max", "25000 100000"),
        ("cpu", "cpu.shares", "99", "cpu.weight", "4"),
        ("pids", "pids.max", "7", "pids.max", "7"),
        ("cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"),
    ):
        assert group_file(tool, "box", controller, v1, v2) in (v1_value if is_v1(controller) else v2_value, None)
    host = tool.inspect("box")["HostConfig"]
    wanted = {"Memory": 48 << 20, "MemorySwap": 96 << 20, "NanoCpus": 250_000_000, "CpuShares": 99, "PidsLimit": 7}
    assert {key: host[key] for key in wanted} == wanted
    tool.good("update", "-m", "16m", "--memory-swap", "20m", "--pids-limit", "-1", "box")
    swap = str((20 if is_v1("memory") else 4) << 20)
    assert group_file(tool, "box", "memory", "memory.memsw.limit_in_bytes", "memory.swap.max") in (swap, None)
    assert group_file(tool, "box", "pids", "pids.max", "pids.max") == "max"
    tool.good("stop", "-t", "0", "box")
    tool.good("start", "box")
    assert group_file(tool, "box", "memory", "memory.limit_in_bytes", "memory.max") == str(16 << 20)
    quota = group_file(tool, "box", "cpu", "cpu.cfs_quota_us", "cpu.max")
    assert quota == ("25000" if is_v1("cpu") else "25000 100000")


def test_update_of_a_stopped_one_and_its_restart_policy(tool: Tool) -> None:
    tool.good("create", "--name", "box", BOX, "true")
    tool.good("update", "--pids-limit", "5", "--restart", "on-failure:3", "box")
    host = tool.inspect("box")["HostConfig"]
    assert host["PidsLimit"] == 5
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}


def test_update_refused(tool: Tool) -> None:
    tool.good("create", "--name", "box", "--cpu-quota", "20000", "-m", "16m", BOX, "true")
    before = tool.inspect("box")["HostConfig"]
    for words, reason in (
        ((), "you must provide one or more flags when using this command"),
        (("--cpus", "1"), "Nano CPUs cannot be updated as CPU Quota has already been set"),
        (("-m", "64m"), "Memory limit should be smaller than already set memoryswap limit"),
        (("-m", "1m"), "Minimum memory limit allowed is 6MB"),
        (("--cpus", "4000"), "Range of CPUs is from 0.01 to"),
        (("--restart", "sometimes"), "sometimes"),
    ):
        done = tool("update", *words, "box")
        assert done.returncode == 1, done
        assert reason in done.stderr
    assert tool.inspect("box")["HostConfig"] == before
