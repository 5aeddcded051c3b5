"""Hazard D11: a process that joins a container joins the one that is meant, also while that ends and begins anew."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.conftest import whole
from tests.integration.tool import Tool

BOX = "busybox:test"
# What exec may find instead of a running container: it has just ended, has just begun, or is being made anew.
CLEAN = ("is not running", "is restarting", "No such container", "is paused", "no such process", "has ended")


def test_d11_exec_during_restarts_joins_the_right_container_or_says_why(tool: Tool) -> None:
    """Two containers end and begin all the time, one of them is made anew each time; each answers for itself alone."""
    start = ["run", "-d", "--network", "none", "--hostname"]
    for name in ("one", "two"):
        tool.good(*start, name, "--name", name, BOX, "sleep", "1000")
    over = threading.Event()
    failures: list[str] = []

    def restart() -> None:
        while not over.is_set():
            done = tool("restart", "-t", "0", "one")
            if done.returncode:
                failures.append(done.stderr)

    def make_anew() -> None:
        while not over.is_set():
            for words in (("rm", "-f", "two"), (*start, "two", "--name", "two", BOX, "sleep", "1000")):
                done = tool(*words)
                if done.returncode:
                    failures.append(f"{words}: {done.stderr}")

    threads = [threading.Thread(target=restart), threading.Thread(target=make_anew)]
    for thread in threads:
        thread.start()
    joined: dict[str, int] = {"one": 0, "two": 0}
    try:
        for number in range(whole(1000, 40)):
            name = ("one", "two")[number % 2]
            done = tool("exec", name, "sh", "-c", "hostname; echo $$")
            assert "Traceback" not in done.stderr and "(a bug" not in done.stderr, done.stderr
            if done.returncode == 0:
                said, pid = done.stdout.split()
                # The pid is one of the container's own namespace, where few have been given yet.
                assert said == name and int(pid) < 100, (name, done.stdout)
                joined[name] += 1
            elif done.returncode == 137:
                # joined, and killed with the container
                assert done.stdout in ("", f"{name}\n") or done.stdout.startswith(f"{name}\n")
            else:
                assert done.returncode in (1, 126), done
                assert len(done.stderr.splitlines()) == 1 and any(word in done.stderr for word in CLEAN), done.stderr
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert failures == []
    # However few hit a moment between two starts: now both are there, and each is itself.
    for name in joined:
        assert tool.good("exec", name, "hostname") == name


def test_d11_no_abstract_socket_of_ours_in_the_hosts_network(tool: Tool) -> None:
    """A container in the host's network reaches every abstract socket there (CVE-2020-15257): we have none."""
    tool.good("run", "-d", "--name", "box", "--network", "host", "--health-cmd", "true", BOX, "sleep", "1000")
    pids = {tool.record("box")[key] for key in ("Pid", "MonitorPid")}
    ours = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = str(link.readlink())
            if target.startswith("socket:["):
                ours.add(target[8:-1])
    table = Path("/proc/net/unix").read_text().splitlines()[1:]
    abstract = {line.split()[6] for line in table if len(line.split()) > 7 and line.split()[7].startswith("@")}
    assert not ours & abstract
    assert "MonitorPid" in tool.record("box")
