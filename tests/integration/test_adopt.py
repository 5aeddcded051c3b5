"""adopt: an orphaned directory runs again, on the layers that its own list of lowers proves."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from minidock.verbs.fsck import fsck
from tests.integration.tool import Tool


@pytest.fixture
def orphan(tool: Tool) -> Path:
    """The directory of a container whose records are gone; it had changed and deleted files."""
    script = "echo kept >/kept; rm /data/one; mkdir /new; echo x >/new/x; chmod 700 /data/deep"
    tool.good("run", "--name", "lost", "--network", "none", "busybox:test", "sh", "-c", script)
    record = tool.inspect("lost")
    mounts = tool.root / "image/overlay2/layerdb/mounts" / record["Id"]
    path: Path = tool.root / "overlay2" / (mounts / "mount-id").read_text()
    shutil.rmtree(mounts)
    shutil.rmtree(tool.root / "containers" / record["Id"])
    return path


def test_an_orphan_runs_again(tool: Tool, orphan: Path) -> None:
    kinds = [fault.kind for fault in fsck(str(tool.root)).faults]
    assert kinds == ["orphan", "orphan"]
    script = "cat /kept /new/x; ls /data; stat -c %a /data/deep"
    container_id = tool.good("adopt", "--name", "found", orphan, "sh", "-c", script)
    assert tool.inspect("found")["Id"] == container_id
    assert tool.inspect("found")["Config"]["Image"] == "busybox:test"
    assert tool.good("start", "-a", "found") == "kept\nx\ndeep\ntwo\n700"
    assert "D /data/one" in tool.good("diff", "found")
    assert fsck(str(tool.root)).faults == []
    tool.good("commit", "found", "found:1")
    assert tool.good("run", "--rm", "--network", "none", "found:1", "cat", "/kept") == "kept"
    done = tool("adopt", orphan)
    assert (done.returncode, "no directories" in done.stderr) == (1, True)


def test_without_its_list_of_lowers_the_image_must_be_named(tool: Tool, orphan: Path) -> None:
    (orphan / "lower").unlink()
    done = tool("adopt", orphan.name[:12])
    assert (done.returncode, "name its image by --image" in done.stderr) == (1, True)
    assert (orphan / "diff/kept").exists()
    document = json.loads(tool.good("adopt", "--json", "--image", "busybox:test", orphan / "diff"))
    tool.good("rename", document["Id"], "again")
    tool.good("cp", "again:/kept", tool.root.parent / "kept")
    assert (tool.root.parent / "kept").read_text() == "kept\n"


def test_a_container_whose_record_cannot_be_read(tool: Tool) -> None:
    tool.good("run", "--name", "broken", "--network", "none", "busybox:test", "sh", "-c", "echo kept >/kept")
    directory = tool.directory("broken")
    mount_id = (tool.root / "image/overlay2/layerdb/mounts" / directory.name / "mount-id").read_text()
    os.truncate(directory / "config.v2.json", 30)
    tool.good("adopt", "--name", "mended", mount_id, "cat", "/kept")
    assert tool.good("start", "-a", "mended") == "kept"
    assert fsck(str(tool.root)).faults == []
    trash = tool.root / "minidock/trash"
    assert list(trash.glob("*/*.old/config.v2.json"))


def test_what_is_somebodys_stays_his(tool: Tool, orphan: Path) -> None:
    tool.good("create", "--name", "whole", "--network", "none", "busybox:test", "true")
    mounts = tool.root / "image/overlay2/layerdb/mounts" / tool.inspect("whole")["Id"]
    for words, reason in (
        ((tool.root / "overlay2" / (mounts / "mount-id").read_text(),), "belongs to container"),
        (("/etc",), "is no directory of"),
        (("f" * 64,), "no directories"),
        (("--image", "nobody:1", orphan), "No such image"),
    ):
        done = tool("adopt", *words)
        assert done.returncode == 1, done
        assert reason in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    other = orphan / "lower"
    other.write_text(other.read_text().rpartition(":")[0])
    assert "does not lead to the layers of any record" in tool("adopt", orphan).stderr
    assert (orphan / "diff/kept").exists()
    shutil.rmtree(orphan)
    shutil.rmtree(orphan.with_name(orphan.name + "-init"))


def test_a_container_whose_init_layer_is_gone(tool: Tool) -> None:
    tool.good("run", "--name", "broken", "--network", "none", "busybox:test", "sh", "-c", "echo kept >/kept")
    mounts = tool.root / "image/overlay2/layerdb/mounts" / tool.inspect("broken")["Id"]
    shutil.rmtree(tool.root / "overlay2" / (mounts / "init-id").read_text())
    assert tool("start", "broken").returncode == 1
    assert "minidock adopt makes a new container" in tool("fsck", "--repair").stdout
    tool.good("adopt", "--name", "mended", (mounts / "mount-id").read_text(), "cat", "/kept")
    assert tool.good("start", "-a", "mended") == "kept"
    assert fsck(str(tool.root)).exit_status in (0, 2)
