"""The volume commands and the prunes, by the real command: what goes, what stays, and the words."""

from __future__ import annotations

import json
import os

import pytest

from tests.integration.test_volumes import data, volumes
from tests.integration.tool import Tool

BOX = "busybox:test"


def test_volume_commands(tool: Tool) -> None:
    assert tool.good("volume", "create", "--label", "a=b", "mine") == "mine"
    assert tool.good("volume", "create", "mine") == "mine"
    assert len(tool.good("volume", "create")) == 64
    tool.good("create", "--name", "box", "-v", "used:/x", BOX)
    assert tool.good("volume", "ls", "-q", "-f", "name=m").splitlines() == ["mine"]
    assert tool.good("volume", "ls", "-f", "label=a").splitlines() == ["DRIVER    VOLUME NAME", "local     mine"]
    assert "used" not in tool.good("volume", "ls", "-q", "-f", "dangling=true").split()
    assert tool.good("volume", "ls", "-q", "-f", "dangling=false") == "used"
    (found,) = json.loads(tool.good("volume", "inspect", "mine"))
    assert found.pop("CreatedAt")
    assert found == {
        "Driver": "local",
        "Labels": {"a": "b"},
        "Mountpoint": str(data(tool, "mine")),
        "Name": "mine",
        "Options": {},
        "Scope": "local",
    }
    assert tool.good("volume", "inspect", "-f", "{{.Name}} {{.Labels.a}}", "mine") == "mine b"
    done = tool("volume", "rm", "used", "nosuch", "mine")
    container_id = tool.inspect("box")["Id"]
    assert done.stdout == "mine\n"
    assert f"remove used: volume is in use - [{container_id}]" in done.stderr
    assert "No such volume: nosuch" in done.stderr
    assert done.returncode == 1
    assert tool.good("volume", "rm", "-f", "nosuch") == "nosuch"
    tool.good("rm", "box")
    assert tool.good("volume", "rm", "used") == "used"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create", "a/b"], "includes invalid characters"),
        (["create", "x"], "volume name is too short"),
        (["create", ".."], "includes invalid characters"),
        (["create", "--name", "one", "two"], "conflicting options"),
        (["create", "-d", "nfs", "one"], 'plugin "nfs" not found'),
        (["create", "-o", "type=tmpfs", "one"], 'missing required option: "device"'),
        (["inspect", "nosuch"], "No such volume: nosuch"),
        (["inspect", "../containers"], "No such volume"),
        (["rm", "../containers"], "No such volume"),
        (["ls", "-f", "odd=1"], "Invalid filter 'odd'"),
        (["ls", "-f", "dangling=perhaps"], "Invalid filter"),
        (["prune", "-f", "--filter", "until=1h"], "Invalid filter 'until'"),
    ],
)
def test_volume_commands_refuse(tool: Tool, words: list[str], message: str) -> None:
    done = tool("volume", *words)
    assert message in done.stderr
    assert done.returncode == 1
    assert volumes(tool) == []


def test_prunes(tool: Tool) -> None:
    tool.good("create", "--name", "old", "--label", "keep=no", "-v", "/anon", "-v", "named:/named", BOX, "true")
    tool.good("run", "-d", "--name", "live", "-v", "/anon", BOX, "sleep", "1000")
    tool.good("run", "--name", "wrote", BOX, "sh", "-c", "echo 1234567 > /new; rm /data/one")
    tool.good("commit", "wrote", "named:1")
    tool.good("commit", "wrote")
    asked = tool("container", "prune", input="n\n")
    assert asked.stdout == (
        "WARNING! This will remove all stopped containers.\n"
        "Are you sure you want to continue? [y/N] Total reclaimed space: 0B\n"
    )
    assert tool.good("container", "prune", "-f", "--filter", "label=keep=yes") == "Total reclaimed space: 0B"
    assert tool.good("container", "prune", "-f", "--filter", "until=1h") == "Total reclaimed space: 0B"
    ids = [tool.inspect(name)["Id"] for name in ("wrote", "old")]
    pruned = tool.good("container", "prune", input="y\n").split("[y/N] ")[1]
    assert pruned.splitlines() == ["Deleted Containers:", *ids, "", "Total reclaimed space: 8B"]
    assert tool.good("ps", "-aq", "--no-trunc") == tool.inspect("live")["Id"]
    # The running container's volume and the named one stay; the anonymous one of the pruned container goes.
    assert len(volumes(tool)) == 3
    (data(tool, "named") / "file").write_bytes(b"x" * 5000)
    lines = tool.good("volume", "prune", "-f").splitlines()
    assert (lines[0], len(lines[1]), lines[2:]) == ("Deleted Volumes:", 64, ["", "Total reclaimed space: 0B"])
    assert tool.good("volume", "prune", "-f", "-a").splitlines()[1:] == ["named", "", "Total reclaimed space: 5kB"]
    assert len(volumes(tool)) == 1
    lines = tool.good("image", "prune", "-f").splitlines()
    assert lines[0] == "Deleted Images:"
    assert lines[1].startswith("deleted: sha256:")
    # Its layer is the named image's too.
    assert lines[2:] == ["", "Total reclaimed space: 0B"]
    lines = tool.good("image", "prune", "-a", "-f").splitlines()
    assert lines[1] == "untagged: named:1"
    assert lines[-1] == "Total reclaimed space: 8B"
    assert len(lines) == 6
    assert tool.good("images", "-q", "--no-trunc") == tool.inspect("live")["Image"]


def test_system_prune(tool: Tool) -> None:
    tool.good("create", "-v", "/anon", "-v", "named:/named", BOX, "true")
    asked = tool("system", "prune", "-a", "--volumes", "--filter", "label!=x", input="\n")
    assert asked.stdout == (
        "WARNING! This will remove:\n"
        "  - all stopped containers\n"
        "  - all networks not used by at least one container\n"
        "  - all anonymous volumes not used by at least one container\n"
        "  - all images without at least one container associated to them\n"
        "\n  Items to be pruned will be filtered with:\n  - label!=x\n"
        "\nAre you sure you want to continue? [y/N] "
    )
    assert tool("system", "prune", "--volumes", "--filter", "until=1h", "-f").returncode == 1
    lines = tool.good("system", "prune", "-a", "--volumes", "-f").splitlines()
    assert [line for line in lines if line.startswith("Deleted")] == [
        "Deleted Containers:",
        "Deleted Volumes:",
        "Deleted Images:",
    ]
    assert volumes(tool) == ["named"]
    assert tool.good("images", "-q") == tool.good("ps", "-aq") == ""
    assert os.listdir(tool.root / "image/overlay2/layerdb/sha256") == []


def test_disk_usage(tool: Tool) -> None:
    tool.good("run", "--name", "wrote", "-v", "used:/x", BOX, "sh", "-c", "echo 1234567 > /new; rm /data/one")
    tool.good("commit", "wrote", "second:1")
    tool.good("run", "-d", "--name", "live", BOX, "sh", "-c", "echo 123 > /new; sleep 1000")
    tool.good("volume", "create", "unused")
    (data(tool, "used") / "file").write_bytes(b"x" * 3000)
    (data(tool, "unused") / "file").write_bytes(b"x" * 1000)
    os.link(data(tool, "unused") / "file", data(tool, "unused") / "again")
    rows = {
        line.split("|")[0]: line
        for line in tool.good(
            "system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}|{{.Reclaimable}}"
        ).splitlines()
    }
    assert rows["Images"].split("|")[1:3] == ["2", "1"]
    # All that is left of the image in use is another's too, so docker counts it as reclaimable.
    assert rows["Images"].endswith("(100%)")
    assert rows["Containers"] == "Containers|2|1|12B|8B (66%)"
    assert rows["Local Volumes"] == "Local Volumes|2|1|4kB|1kB (25%)"
    lines = tool.good("system", "df").splitlines()
    assert lines[0].split() == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    details = tool.good("system", "df", "-v")
    assert "Local Volumes space usage:\n\nVOLUME NAME   LINKS     SIZE\nunused        0         1kB\n" in details
    (second,) = [line.split() for line in details.splitlines() if line.startswith("second")]
    assert second[-2:] == ["8B", "0"]
    (live,) = [line for line in details.splitlines() if line.endswith(" live")]
    assert "4B" in live
