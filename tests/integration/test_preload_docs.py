"""docs/preload.md does what it says: its commands run as they stand, its options exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests import builders
from tests.bad_roots import full_listing

PAGE = (Path(__file__).resolve().parents[2] / "docs/preload.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(scratch: Path, busybox_layer: bytes) -> Path:
    """A folder with the archives that the page speaks of."""
    builders.docker_archive(scratch / "app.tar", builders.ImageSpec([busybox_layer], tags=["app:1"]))
    members: list[tuple[str, bytes | None | tuple[str, str]]] = [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')]
    manifests = []
    for architecture in ("amd64", "arm64"):
        layer = builders.layer_tar(builders.tar_member(b"arch", architecture.encode()))
        config = builders.image_config([layer], architecture=architecture)
        document = json.dumps(
            {
                "schemaVersion": 2,
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": builders.sha256(config),
                    "size": len(config),
                },
                "layers": [
                    {
                        "mediaType": "application/vnd.oci.image.layer.v1.tar",
                        "digest": builders.sha256(layer),
                        "size": len(layer),
                    }
                ],
            }
        ).encode()
        members += [(f"blobs/sha256/{builders.sha256(data)[7:]}", data) for data in (layer, config, document)]
        manifests.append(
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": builders.sha256(document),
                "size": len(document),
                "platform": {"os": "linux", "architecture": architecture},
                "annotations": {"org.opencontainers.image.ref.name": "many:1"},
            }
        )
    members.append(("index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()))
    (scratch / "many.oci.tar").write_bytes(builders.outer_tar(members))
    return scratch


def test_the_commands_run(place: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shown = [
        builders.run_command("sh", "-eu", "-c", block, cwd=place, env={"PATH": path, "LC_ALL": "C.UTF-8"}).stdout
        for block in BLOCKS
    ]
    assert len(shown) == 3
    assert re.search(r"^app +1 ", shown[0], re.MULTILINE)
    assert shown[1].splitlines()[-1] == "arm64"
    assert shown[2].splitlines()[-1] == "equal"


def test_each_row_of_the_table_is_true(place: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "LC_ALL": "C.UTF-8"}
    for name in ("one", "two"):
        builders.run_command("minidock", "--root", name, "pull-tar", "-q", "app.tar", cwd=place, env=environment)
    one, two = (place / name for name in ("one", "two"))
    for part in ("overlay2", "overlay2/l"):
        names = [set(os.listdir(root / part)) - {"l"} for root in (one, two)]
        assert names[0].isdisjoint(names[1])
    for name in ("cache-id", "diff", "size"):
        (first,) = (one / "image/overlay2/layerdb/sha256").glob(f"*/{name}")
        other = two / first.relative_to(one)
        assert (first.read_bytes() == other.read_bytes()) == (name != "cache-id")
    assert os.listdir(one / "minidock") == os.listdir(two / "minidock") != []


def test_a_symlink_leads_where_this_machine_says(place: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    (place / "tree").mkdir()
    (place / "tree/docker").symlink_to(place / "elsewhere")
    words = ("minidock", "--root", "tree/docker", "pull-tar", "-q", "--reproducible", "app.tar")
    builders.run_command(*words, cwd=place, env={"PATH": path})
    assert len(full_listing(place / "elsewhere")) > 20
    shutil.rmtree(place / "elsewhere")
