"""rename, restart and port, as a person uses them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.tool import Tool

pytestmark = pytest.mark.root
QUIET = ("--network", "none")


def test_a_container_is_renamed_while_it_runs_and_keeps_the_name_after_its_end(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "old", *QUIET, "busybox:test", "sleep", "100")
    assert tool.good("rename", "old", "new") == ""
    assert tool.status("new") == "running"
    assert tool("inspect", "old").returncode == 1
    tool.good("stop", "-t", "0", "new")
    assert tool.inspect("new")["Name"] == "/new"
    assert tool.inspect("new")["State"]["ExitCode"] == 137


def test_refused_names(tool: Tool) -> None:
    first = tool.good("create", "--name", "first", *QUIET, "busybox:test", "true")
    tool.good("create", "--name", "second", *QUIET, "busybox:test", "true")
    for words, message in (
        (("second", "first"), f'Error when allocating new name: Conflict. The container name "/first" is already in '
         f'use by container "{first}". You have to remove (or rename) that container to be able to reuse that name.'),
        (("second", "second"), "Renaming a container with the same name as its current name"),
        (("second", "a b"), "Error when allocating new name: Invalid container name (a b), only "
         "[a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
        (("second", ""), "Neither old nor new names may be empty"),
        (("third", "fourth"), "No such container: third"),
    ):  # fmt: skip
        done = tool("rename", *words)
        assert done.returncode != 0, words
        assert message in done.stderr, done.stderr
    assert {tool.inspect(name)["Name"] for name in ("first", "second")} == {"/first", "/second"}


def test_restart_gives_a_new_process_and_keeps_what_was_written(tool: Tool) -> None:
    script = "echo x >> /count; exec sleep 100"
    tool.good("run", "-d", "--name", "rr", *QUIET, "busybox:test", "sh", "-c", script)
    before = tool.inspect("rr")["State"]["Pid"]
    assert tool.good("restart", "-t", "0", "rr") == "rr"
    state = tool.inspect("rr")["State"]
    assert state["Running"] is True
    assert state["Pid"] != before
    assert tool.good("exec", "rr", "sh", "-c", "wc -l < /count") == "2"
    tool.good("stop", "-t", "0", "rr")
    tool.good("restart", "-t", "0", "rr")
    assert tool.status("rr") == "running"
    assert tool("restart", "nobody").returncode == 1


def test_restart_keeps_a_container_that_its_end_would_remove(tool: Tool) -> None:
    container_id = tool.good("run", "-d", "--rm", "--name", "rr", *QUIET, "busybox:test", "sleep", "100")
    tool.good("restart", "-t", "0", "rr")
    assert tool.inspect("rr")["Id"] == container_id
    assert tool.status("rr") == "running"
    assert tool.inspect("rr")["HostConfig"]["AutoRemove"] is True
    tool.good("stop", "-t", "0", "rr")
    assert tool("inspect", "rr").returncode == 1


def test_ports_and_labels_from_a_file(tool: Tool, scratch: Path) -> None:
    (scratch / "labels").write_text("# comment\none=1\nbare\ntwo=a b\n")
    words = ("--label-file", scratch / "labels", "-l", "one=2", *QUIET, "busybox:test", "true")
    tool.good("create", "--name", "cc", *words)
    assert tool.inspect("cc")["Config"]["Labels"] == {"one": "2", "two": "a b"}
    assert tool.good("port", "cc") == ""
    done = tool("port", "cc", "80")
    assert done.returncode == 1
    assert "No public port '80/tcp' published for cc" in done.stderr
    assert tool("port", "cc", "x").returncode != 0
