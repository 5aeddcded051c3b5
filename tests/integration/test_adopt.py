"""adopt: an orphaned directory runs again, on the layers that its own list of lowers proves."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from minidock.verbs.fsck import fsck
from tests import builders
from tests.damages import exact_listing
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


def _lost_record(tool: Tool) -> Path:
    """The directory of a container whose record is cut; of an image that asks for a volume."""
    layer = builders.layer_tar(builders.directory(b"data"), builders.tar_member(b"data/one", b"one"))
    config = builders.image_config([layer], config={"Cmd": ["true"], "Volumes": {"/data": {}}})
    spec = builders.ImageSpec([layer], config=config, tags=["volume:1"])
    tool.good("pull-tar", "-q", builders.docker_archive(tool.root.parent / "volume.tar", spec))
    tool.good("create", "--name", "broken", "--network", "none", "volume:1")
    (tool.root.parent / "kept").write_text("kept\n")
    tool.good("cp", tool.root.parent / "kept", "broken:/kept")
    directory = tool.directory("broken")
    mounts = tool.root / "image/overlay2/layerdb/mounts" / directory.name
    os.truncate(directory / "config.v2.json", 30)
    return tool.root / "overlay2" / (mounts / "mount-id").read_text()


@pytest.mark.parametrize("kind", ["orphan", "without lower", "broken record", "broken record, a name twice"])
def test_undo_gives_back_what_was_there_byte_for_byte(tool: Tool, kind: str, request: pytest.FixtureRequest) -> None:
    path = _lost_record(tool) if "broken" in kind else request.getfixturevalue("orphan")
    words: list[str] = ["--image", "busybox:test"] if kind == "without lower" else []
    if words:
        (path / "lower").unlink()
    if "twice" in kind:
        (tool.root / "overlay2/l" / ("A" * 26)).symlink_to(f"../{path.name}/diff")
    before = exact_listing(tool.root)
    inodes = {name: os.lstat(name).st_ino for name in before}
    tool.good("adopt", "--name", "found", *words, path)
    assert exact_listing(tool.root) != before
    document = json.loads(tool.good("undo", "--list", "--json"))[-1]
    assert (document["Kind"], document["State"]) == ("adopt", "done")
    tool.good("undo")
    assert exact_listing(tool.root) == before
    assert {name: os.lstat(name).st_ino for name in before} == inodes
    assert tool("inspect", "found").returncode == 1
    # And once more, to the same end.
    tool.good("adopt", "--name", "found", *words, path)
    tool.good("cp", "found:/kept", tool.root.parent / "kept")
    assert (tool.root.parent / "kept").read_text() == "kept\n"
    tool.good("undo")
    assert exact_listing(tool.root) == before
    tool.good("gc", "--empty-trash")
    assert exact_listing(tool.root) == before
    # Whole containers only can be removed.
    tool.good("adopt", *words, path)


def test_undo_refuses_once_the_container_was_used(tool: Tool, orphan: Path) -> None:
    """What was written since is nobody's to throw away, and what was removed nobody can bring back."""
    tool.good("adopt", "--name", "found", orphan, "sleep", "1000")
    for words, reason in (
        (("start", "found"), "was changed after it was put there"),
        (("kill", "found"), "was changed after it was put there"),
        (("rm", "-f", "found"), "its container was removed"),
    ):
        tool.good(*words)
        if words[0] == "kill":
            tool("wait", "found")
        before = exact_listing(tool.root)
        done = tool("undo")
        assert (done.returncode, done.stdout) == (1, ""), done
        assert reason in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
        assert exact_listing(tool.root) == before


def test_a_failing_adopt_leaves_everything(tool: Tool, orphan: Path) -> None:
    tool.good("create", "--name", "taken", "--network", "none", "busybox:test", "true")
    before = exact_listing(tool.root)
    done = tool("adopt", "--name", "taken", orphan)
    assert (done.returncode, "is already in use" in done.stderr) == (1, True)
    assert exact_listing(tool.root) == before
    assert "nothing to undo" in tool("undo").stderr
    tool.good("adopt", orphan)
