"""explain, blame, diff, who, du and timeline on roots that dockerd wrote, while it runs and after it has stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from tests.conftest import Engine
from tests.integration.looker import Looker
from tests.seen_roots import CHANGES, age, images, stamps


@pytest.fixture(scope="module")
def engine(new_engine: Callable[[], Engine], session_scratch: Path, busybox_layer: bytes) -> Engine:
    """A running dockerd with the images of seen_roots, `box` that was changed and `busy` that runs."""
    made = new_engine()
    made.start()
    made.docker("load", "-i", builders.docker_archive(session_scratch / "see-docker.tar", *images(busybox_layer)))
    made.docker("run", "--name", "box", "--network", "none", "seen:1", "sh", "-c", CHANGES)
    made.docker("run", "-d", "--name", "busy", "--network", "none", "seen:2", "sh", "-c", "echo 1 >/tmp/one; sleep 600")
    made.docker("commit", "box", "seen:3")
    return made


def _docker_json(engine: Engine, *words: str) -> Any:
    return json.loads(engine.docker("inspect", *words).stdout)


def test_a_running_engines_root(engine: Engine) -> None:
    look = Looker(engine.root)
    age(engine.root / "image")
    before = stamps(engine.root / "image")
    explained = {name: look.document("explain", name) for name in ("seen:1", "seen:3", "box", "busy")}
    assert stamps(engine.root / "image") == before
    for name, told in explained.items():
        inspected = _docker_json(engine, name)[0]
        driver: Any = inspected["GraphDriver"]["Data"]
        directories = [layer["directory"] for layer in told["layers"]][::-1]
        places = [driver["UpperDir"], *driver.get("LowerDir", "").split(":")]
        assert places == [f"{engine.root}/{directory}/diff" for directory in directories]
        if name.startswith("seen"):
            assert inspected["Id"] == told["image_id"]
            assert inspected["RootFS"]["Layers"] == [layer["diff_id"] for layer in told["layers"]]
        else:
            assert (inspected["Id"], inspected["Image"]) == (told["container_id"], told["image_id"])
        words = ("history", "--no-trunc", "--format", "{{.CreatedBy}}", told["image_id"])
        layers = [layer["created_by"] for layer in told["layers"] if layer["role"] == "layer"]
        assert layers == engine.docker(*words).stdout.splitlines()[::-1]
    for name in ("box", "busy"):
        lines = [f"{one['Kind']} {one['Path']}" for one in look.document("diff", "--why", name)]
        assert sorted(lines) == sorted(engine.docker("diff", name).stdout.splitlines())
    merged = _docker_json(engine, "busy")[0]["GraphDriver"]["Data"]["MergedDir"]
    owner = look.document("who", f"{merged}/tmp/one")[0]
    assert (owner["users"][0]["names"], owner["path"]) == (["busy"], "/tmp/one")
    assert look.document("blame", "busy", "/tmp/one")[0]["events"][0]["layer"] == "container"


def test_a_stopped_engines_root(engine: Engine) -> None:
    changes = {name: engine.docker("diff", name).stdout.splitlines() for name in ("box", "busy")}
    engine.docker("kill", "busy")
    engine.stop()
    look = Looker(engine.root)
    disk = builders.run_command("du", "-sx", "--block-size=1", engine.root).stdout.split()[0]
    age(engine.root)
    before = stamps(engine.root)
    for name, lines in changes.items():
        told = [f"{one['Kind']} {one['Path']}" for one in look.document("diff", "--why", name)]
        assert sorted(told) == sorted(lines)
    account = look.document("du")
    assert account["total"]["allocated_bytes"] == int(disk)
    assert account["orphans"] == []
    assert {row["name"] for row in account["containers"]} == {"box", "busy"}
    assert look.good("diff", "--why", "seen:3", "box").endswith(" 0 deleted, +0B\n")
    assert look.good("timeline", "--hash")
    assert "This container" in look.good("explain", "--html", "-", "box")
    past = look.document("blame", "seen:3", "/etc/passwd")[0]["events"]
    assert [(event["action"], event["layer"]) for event in past] == [
        ("changed", "layer 4"),
        ("changed", "layer 2"),
        ("added", "layer 1"),
    ]
    assert "echo changed >/etc/passwd" in past[0]["created_by"]
    assert stamps(engine.root) == before
