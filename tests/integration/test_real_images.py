"""The main job on real images: Debian as one layer, ten layers made with apt, 100,000 files, 1 GB, 120 layers.

Everything goes through the installed command, each image on a data root of its own on tmpfs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import builders, real_images
from tests.conftest import Engine

MINIDOCK = Path(sys.executable).with_name("minidock")
BUSYBOX = ("-v", "/bin/busybox:/bin/busybox:ro")

pytestmark = pytest.mark.slow


class Shop:
    """The installed command on one data root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, *words: str | Path, check: bool = True) -> str:
        done = builders.run_command(MINIDOCK, "--root", self.root, *words, check=check, stdin=subprocess.DEVNULL)
        return done.stdout

    def diff_ids(self, image: str) -> list[str]:
        """The diff_ids of an image, bottom first."""
        layers: list[str] = json.loads(self("inspect", image))[0]["RootFS"]["Layers"]
        return layers

    def directories(self) -> set[str]:
        """The names of the overlay2 directories."""
        return {path.name for path in (self.root / "overlay2").iterdir()} - {"l"}


@pytest.fixture
def shop(scratch: Path) -> Iterator[Shop]:
    """A shop on an empty data root; what still runs is ended."""
    shop = Shop(scratch / "root")
    yield shop
    for container in shop("ps", "-aq", check=False).split():
        shop("rm", "-f", container)


def _pull_run_commit(shop: Shop, archive: Path, image: str, layers: int, *start: str) -> None:
    """Pull an image, change it in a container, commit that, and see the change in the new image."""
    shop("pull-tar", archive)
    before = shop.diff_ids(image)
    assert len(before) == layers
    directories = shop.directories()
    assert len(directories) == layers
    shop("run", "--name", "edit", *start[:-1], image, *start[-1].split(), "-c", "echo written >/written")
    shop("commit", "-m", "edited", "edit", "new:1")
    shop("rm", "edit")
    after = shop.diff_ids("new:1")
    assert after[:-1] == before
    assert len(shop.directories() - directories) == 1, "the layers below are shared, one is new"
    told = shop("run", "--rm", *start[:-1], "new:1", *start[-1].split(), "-c", "read line </written; echo got $line")
    assert told == "got written\n"
    assert len(shop("history", "-q", "new:1").split()) == len(shop("history", "-q", image).split()) + 1
    assert "edited" in shop("history", "new:1")
    # What pull-tar knows is not unpacked again.
    shop("pull-tar", archive)
    assert len(shop.directories()) == layers + 1


def test_debian_as_one_layer(shop: Shop, scratch: Path) -> None:
    _pull_run_commit(shop, real_images.minbase(), "minbase:1", 1, "sh")
    assert shop("run", "--rm", "minbase:1", "cat", "/etc/debian_version").startswith("12")
    graph = json.loads(shop("inspect", "minbase:1"))[0]["GraphDriver"]["Data"]
    plain = scratch / "plain"
    plain.mkdir()
    builders.run_command("tar", "--xattrs", "--xattrs-include=*", "-xf", real_images.minbase_rootfs(), "-C", plain)
    assert builders.tree_listing(graph["UpperDir"]) == builders.tree_listing(plain)


def test_debian_as_a_plain_root_file_system(shop: Shop) -> None:
    with open(real_images.minbase_rootfs(), "rb") as stream:
        words = [str(MINIDOCK), "--root", str(shop.root), "pull-tar", "-", "--name", "rootfs:1"]
        subprocess.run(words, stdin=stream, check=True, capture_output=True)
    assert shop("run", "--rm", "rootfs:1", "sh", "-c", "echo $0 runs") == "sh runs\n"


def test_ten_layers_made_with_apt(shop: Shop) -> None:
    _pull_run_commit(shop, real_images.ten_layers(), "ten:10", 10, "sh")
    assert shop("run", "--rm", "ten:10", "git", "--version").startswith("git version 2")
    script = "print(sum(range(10)))"
    assert shop("run", "--rm", "ten:10", "python3", "-c", script) == "45\n"


def test_hundred_thousand_files(shop: Shop) -> None:
    _pull_run_commit(shop, real_images.many_files(), "many:1", 1, *BUSYBOX, "/bin/busybox sh")
    script = "cd /d999 && set -- * && echo $# && /bin/busybox head -n 1 f99999"
    assert shop("run", "--rm", *BUSYBOX, "many:1", "/bin/busybox", "sh", "-c", script) == "100\n99999\n"


def test_one_large_file(shop: Shop) -> None:
    _pull_run_commit(shop, real_images.big_file(), "big:1", 1, *BUSYBOX, "/bin/busybox sh")
    told = shop("run", "--rm", *BUSYBOX, "big:1", "/bin/busybox", "stat", "-c", "%s", "/big")
    assert told == f"{1 << 30}\n"


def test_a_hundred_and_twenty_layers(shop: Shop) -> None:
    _pull_run_commit(shop, real_images.deep_stack(), "deep:1", 120, "sh")
    assert shop("run", "--rm", "deep:1", "cat", "/latest", "/n001") == "119\n1\n"


EDITS = """
echo edited >/etc/motd
rm /etc/issue
rm -r /var/lib/dpkg/info && mkdir /var/lib/dpkg/info
mkdir -p /opt/new/deep && echo one >/opt/new/deep/one && ln /opt/new/deep/one /opt/new/two
chmod 700 /srv
mv /etc/fstab /etc/fstab.old
ln -s nowhere /opt/new/link
"""


def test_ten_layers_edited_give_docker_s_diff_id(shop: Shop, new_engine: Callable[[], Engine], scratch: Path) -> None:
    """What the issue wants shown: the same edits on the same image of ten layers, committed by both engines.

    A deletion becomes a device file with the time of its making, so docker's container is given a copy of the upper
    directory instead of the same commands a moment later.
    """
    engine = new_engine()
    engine.start()
    archive = real_images.ten_layers()
    shop("pull-tar", archive)
    engine.docker("load", "-q", "-i", archive)
    shop("run", "--name", "edit", "--network", "none", "ten:10", "sh", "-ec", EDITS)
    engine.docker("create", "--name", "edit", "--network", "none", "ten:10", "true")
    ours, theirs = (
        json.loads(text)[0]["GraphDriver"]["Data"]["UpperDir"]
        for text in (shop("inspect", "edit"), engine.docker("inspect", "edit").stdout)
    )
    builders.run_command("cp", "-a", f"{ours}/.", theirs)
    # Later engines than the installed one write some headers otherwise.
    version = engine.docker("version", "-f", "{{.Server.Version}}").stdout.strip()
    shop("commit", "--engine", version, "edit", "edited:1")
    engine.docker("commit", "edit", "edited:1")
    layers = json.loads(engine.docker("inspect", "edited:1").stdout)[0]["RootFS"]["Layers"]
    engine.docker("rm", "edit")
    engine.stop()
    assert len(layers) == 11
    assert shop.diff_ids("edited:1") == layers
    assert len(shop("history", "-q", "edited:1").split()) == 11
