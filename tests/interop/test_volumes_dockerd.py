"""Volumes of one root under both programs: records equal, volumes taken over either way, cp's results the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import builders
from tests.conftest import Engine
from tests.integration.test_volumes import RICH, load
from tests.integration.tool import Tool

WORDS = (
    *("-v", "named:/data", "-v", "linked:/short:ro", "-v", "/anon", "-v", "bare:/bare:nocopy"),
    *("--mount", "type=volume,src=mount,dst=/m,readonly", "--mount", "type=volume,dst=/m2"),
    *("--mount", "type=volume,src=label,dst=/m3,volume-nocopy,volume-label=x=y,volume-driver=local"),
)


def points(record: Path, root: Path) -> dict[str, Any]:
    """MountPoints of config.v2.json, random names and the root's path set aside."""
    found: dict[str, Any] = json.loads(record.read_text())["MountPoints"]
    for point in found.values():
        name = point["Name"]
        point["Source"] = point["Source"].replace(str(root), "ROOT")
        if len(name) == 64:
            point["Source"] = point["Source"].replace(name, "ANON")
            point["Name"] = "ANON"
    return found


def shown(mounts: list[dict[str, Any]], root: Path) -> list[str]:
    texts = []
    for mount in mounts:
        text = json.dumps(mount, sort_keys=True).replace(str(root), "ROOT")
        texts.append(text.replace(mount["Name"], "ANON") if len(mount["Name"]) == 64 else text)
    return sorted(texts)


def test_volumes_under_both(new_engine: Callable[[], Engine], scratch: Path, busybox_archive: Path) -> None:
    engine = new_engine()
    tool = Tool(engine.root, busybox_archive)
    load(tool, "rich:1", RICH, Volumes={"/vol": {}})
    tool.good("create", "--name", "ours", *WORDS, "rich:1", "sh", "-c", "echo more >> /data/new; ls /m /short")
    tool.good("create", "--name", "taker", "--volumes-from", "ours:ro", "rich:1", "true")
    ours = tool.inspect("ours")
    tool.good("volume", "create", "made")
    engine.start()
    docker = engine.docker
    # minidock's volumes, under docker
    names = set(docker("volume", "ls", "-q").stdout.split())
    assert {"named", "linked", "bare", "mount", "label", "made"} < names
    assert len(names) == 9
    (theirs,) = json.loads(docker("inspect", "ours").stdout)
    assert shown(theirs["Mounts"], engine.root) == shown(ours["Mounts"], engine.root)
    assert docker("start", "-a", "ours").stdout.split().count("file") == 1
    assert (engine.root / "volumes/named/_data/new").read_text() == "more\n"
    # docker's own container of the same words: the same records, and volumes with the same content
    replaced = [word.replace("named:", "named2:").replace("linked:", "linked2:") for word in WORDS]
    created = docker("create", "--name", "theirs", *replaced, "rich:1", "true").stdout.strip()
    taken = docker("create", "--name", "taker2", "--volumes-from", "theirs:ro", "rich:1", "true").stdout.strip()
    copied = scratch / "copied"
    copied.mkdir()
    docker("cp", "theirs:/short", copied / "link")
    docker("cp", "theirs:/rich/.", copied / "content")
    docker("cp", copied, "theirs:/into")
    assert "volume is in use" in docker("volume", "rm", "made", "named", check=False).stderr
    usage = ("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}")
    their_usage = docker(*usage).stdout.splitlines()[:3]
    engine.stop()
    assert tool.good(*usage).splitlines() == their_usage
    containers = engine.root / "containers"
    mine, its = (points(containers / one / "config.v2.json", engine.root) for one in (ours["Id"], created))
    text = json.dumps(its, sort_keys=True).replace("named2", "named").replace("linked2", "linked")
    assert _plain(json.loads(text)) == _plain(mine)
    taker_id = tool.inspect("taker")["Id"]
    mine, its = (points(containers / one / "config.v2.json", engine.root) for one in (taker_id, taken))
    text = json.dumps(its, sort_keys=True).replace("named2", "named").replace("linked2", "linked")
    assert _plain(json.loads(text)) == _plain(mine)
    volumes = engine.root / "volumes"
    assert builders.tree_listing(volumes / "linked2/_data") == builders.tree_listing(volumes / "linked/_data")
    # docker's volumes, under minidock
    assert "made" not in tool.good("volume", "ls", "-q").split()
    ours_copied = scratch / "ours"
    ours_copied.mkdir()
    tool.good("cp", "theirs:/short", ours_copied / "link")
    tool.good("cp", "theirs:/rich/.", ours_copied / "content")
    assert builders.tree_listing(ours_copied) == builders.tree_listing(copied)
    tool.good("cp", "theirs:/into", scratch / "back")
    assert builders.tree_listing(scratch / "back") == builders.tree_listing(copied)
    assert tool.good("run", "--rm", "-v", "linked2:/x", "rich:1", "cat", "/x/file") == "content"
    before = len(os.listdir(volumes))
    tool.good("rm", "-v", "theirs", "taker2")
    assert before - len(os.listdir(volumes)) == 3
    # The prunes, in the same words: docker first, on what it made anew.
    engine.start()
    made = [docker("create", "rich:1", "true").stdout.strip() for _ in range(2)][::-1]
    docker("rm", "ours", "taker")
    assert docker("container", "prune", "-f").stdout.split("\n") == _pruned("Containers", made)
    engine.stop()
    made = [tool.good("create", "rich:1", "true") for _ in range(2)][::-1]
    assert tool.good("container", "prune", "-f").split("\n") == _pruned("Containers", made)[:-1]


def _pruned(kind: str, names: list[str]) -> list[str]:
    return [f"Deleted {kind}:", *names, "", "Total reclaimed space: 0B", ""]


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    # Newer starts note the volume's ID of the moment, which is nobody's to compare.
    return {path: {key: value for key, value in point.items() if key != "ID"} for path, point in found.items()}
