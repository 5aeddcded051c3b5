"""explain, blame, who and du on damaged roots: the truth of what is there, a name for what is missing, no trace."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from minidock.__main__ import run
from tests import builders
from tests.bad_roots import FAULTS, BadRoot, copy_root
from tests.bad_roots import images as sick_images
from tests.integration.looker import Looker, disk_bytes
from tests.integration.tool import command
from tests.seen_roots import age, stamps


@pytest.fixture(scope="module")
def whole(session_scratch: Path, busybox_layer: bytes) -> Path:
    root = session_scratch / "see-whole"
    archive = builders.docker_archive(session_scratch / "see-sick.tar", *sick_images(busybox_layer))
    for words in (
        ("pull-tar", "-q", archive),
        ("create", "--name", "sick-box", "--network", "none", "sick:1", "true"),
        ("create", "--name", "well-box", "--network", "none", "well:1", "true"),
    ):
        builders.run_command(*command("--root", root, *words), timeout=60)
    return root


# What of a damaged root concerns neither the image nor the container, so that nothing need be said of it there.
ELSEWHERE = {
    "a name of an image that is not there",
    "folder of a layer half stored",
    "record half removed",
    "config half written",
    "directory without a record",
    "short name of nothing",
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_damaged_roots_are_told_as_they_are(
    fault: str, whole: Path, scratch: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = copy_root(whole, scratch / "root")
    FAULTS[fault][1](bad)
    taken, orphans = disk_bytes(bad.path), _orphans(fault, bad)
    age(bad.path)
    before = stamps(bad.path)

    def look(*words: str) -> tuple[int, str]:
        status = run(["--root", str(bad.path), *words])
        sys.stdout.flush()
        shown = capfd.readouterr()
        return status, shown.out + shown.err

    said = ""
    for words in (
        ("explain", "sick:1"),
        ("explain", bad.sick[7:19]),
        ("explain", "sick-box"),
        ("explain", bad.box.name),
        ("blame", "sick:1", "/data/*"),
        ("who", bad.layers[1][1].name),
        ("who", "sick-box"),
    ):
        status, text = look(*words)
        assert status in (0, 1, 2), words
        said += text
    is_told = "✗" in said or "WARNING" in said or "minidock: " in said
    assert is_told != (fault in ELSEWHERE), said
    account = json.loads(look("du", "--json")[1])
    assert account["total"]["allocated_bytes"] == taken
    assert {orphan["path"] for orphan in account["orphans"]} == orphans
    # The other image stays whole for every look, unless what names it is gone.
    if not fault.startswith("repositories.json"):
        assert "✗" not in look("explain", "well:1")[1]
        assert look("blame", "well:1", "/well")[0] == 0
    assert stamps(bad.path) == before


def _orphans(fault: str, bad: BadRoot) -> set[str]:
    """What nothing refers to any more after this damage."""
    bottom, middle, top = (f"overlay2/{layer.name}" for _, layer in bad.layers)
    container = {f"overlay2/{bad.mount.name}", f"overlay2/{bad.init.name}"}
    removed = f"image/overlay2/layerdb/sha256/{'2' * 64}-{'3' * 64}-removing"
    found: dict[str, set[str]] = {
        "record half removed": {removed},
        "directory without a record": {f"overlay2/{'4' * 64}"},
        "folder of a layer half stored": {"image/overlay2/layerdb/tmp/write-set-123456789"},
        "short name of nothing": {f"overlay2/l/{'B' * 26}"},
        "config half written": {f"image/overlay2/imagedb/content/sha256/.tmp-{bad.sick[7:]}123"},
        "record of a middle layer": {middle},
        "cache-id emptied": {middle},
        "record of the top layer: an image without its chain": {top},
        "container without a mount record": container | {f"containers/{bad.box.name}"},
        "mount record without a container": container | {f"image/overlay2/layerdb/mounts/{bad.box.name}"},
    }
    gone = {
        "directory of the bottom layer": bad.layers[0][1],
        "directory of a middle layer": bad.layers[1][1],
        "directory of the top layer": bad.layers[2][1],
        "directory of the container": bad.mount,
        "directory of the init layer": bad.init,
    }
    if fault in gone:
        links = (bad.path / "overlay2/l").iterdir()
        return {f"overlay2/l/{link.name}" for link in links if os.readlink(link) == f"../{gone[fault].name}/diff"}
    return found.get(fault, set())


def test_a_lost_record_is_bridged_by_the_list_of_the_layer_above(whole: Path, scratch: Path) -> None:
    bad = copy_root(whole, scratch / "root")
    FAULTS["record of a middle layer"][1](bad)
    look = Looker(bad.path)
    told = json.loads(look("explain", "--json", "sick:1").stdout)
    assert told["layers"][1]["cache_id"] == bad.layers[1][1].name
    assert told["layers"][1]["is_by_lower"]
    assert any("record is missing" in fault for fault in told["faults"])
    assert json.loads(look("blame", "--json", "sick:1", "/data/one").stdout)[0]["events"][0]["layer"] == "layer 2"
