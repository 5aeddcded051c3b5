"""Data roots as a crash leaves them: each fault by itself, what it is called, and who must refuse to work on it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from tests import builders


class BadRoot:
    """A copy of a whole root, to be damaged in one place.

    Shape: `sick:1` has the layers that get damaged, bottom first in `layers` as (record, overlay2 directory), and the
           container `sick-box` on it; `well:1` and `well-box` share nothing with them
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.image = path / "image/overlay2"
        self.overlay = path / "overlay2"
        self.layerdb = self.image / "layerdb"
        names = json.loads((self.image / "repositories.json").read_text())["Repositories"]
        self.sick: str = names["sick"]["sick:1"]
        self.config: Path = self.image / "imagedb/content/sha256" / self.sick[7:]
        self.layers: list[tuple[Path, Path]] = []
        chain = ""
        for diff_id in json.loads(self.config.read_bytes())["rootfs"]["diff_ids"]:
            chain = builders.sha256(f"{chain} {diff_id}".encode()) if chain else diff_id
            record = self.layerdb / "sha256" / chain[7:]
            self.layers.append((record, self.overlay / (record / "cache-id").read_text()))
        for folder in (path / "containers").iterdir():
            if json.loads((folder / "config.v2.json").read_text())["Name"] == "/sick-box":
                self.box: Path = folder
        self.mount_record = self.layerdb / "mounts" / self.box.name
        self.mount: Path = self.overlay / (self.mount_record / "mount-id").read_text()
        self.init = self.overlay / (self.mount_record / "init-id").read_text()

    def short_name(self, number: int) -> Path:
        """The symlink of a layer below l/."""
        return self.overlay / "l" / (self.layers[number][1] / "link").read_text()


Damage = Callable[[BadRoot], Path]

# Who must refuse: "image" for whatever stands on sick:1, "stack" for all of that but save, "config" for what needs
# the image's config, "box" and "gone" for sick-box alone, "names" for what needs or changes names, "" for nobody.
FAULTS: dict[str, tuple[str, Damage]] = {}


def fault(name: str, refuses: str) -> Callable[[Damage], Damage]:
    def keep(damage: Damage) -> Damage:
        FAULTS[name] = (refuses, damage)
        return damage

    return keep


def _cut(path: Path, size: int = 0) -> Path:
    os.truncate(path, size)
    return path


def _gone(path: Path) -> Path:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    return path


fault("directory of the bottom layer", "image")(lambda root: _gone(root.layers[0][1]))
fault("directory of a middle layer", "image")(lambda root: _gone(root.layers[1][1]))
fault("directory of the top layer", "image")(lambda root: _gone(root.layers[2][1]))
fault("content of a middle layer", "image")(lambda root: _gone(root.layers[1][1] / "diff"))
fault("link emptied", "stack")(lambda root: _cut(root.layers[2][1] / "link"))
fault("link emptied in the middle", "stack")(lambda root: _cut(root.layers[1][1] / "link"))
fault("link missing", "stack")(lambda root: _gone(root.layers[2][1] / "link"))
fault("lower missing at the top", "stack")(lambda root: _gone(root.layers[2][1] / "lower"))
fault("lower emptied at the top", "stack")(lambda root: _cut(root.layers[2][1] / "lower"))
fault("lower emptied in the middle", "stack")(lambda root: _cut(root.layers[1][1] / "lower"))
fault("lower cut after its first name", "stack")(lambda root: _cut(root.layers[2][1] / "lower", 28))
fault("cache-id emptied", "image")(lambda root: _cut(root.layers[1][0] / "cache-id"))


@fault("size with a newline", "image")
def _odd_size(root: BadRoot) -> Path:
    path = root.layers[2][0] / "size"
    path.write_text(path.read_text() + "\n")
    return path


@fault("record of a middle layer", "image")
def _no_record(root: BadRoot) -> Path:
    _gone(root.layers[1][0])
    return root.layers[2][0]


@fault("record of the top layer: an image without its chain", "image")
def _no_chain(root: BadRoot) -> Path:
    _gone(root.layers[2][0])
    return root.config


@fault("short name missing at the top", "stack")
def _no_short_name(root: BadRoot) -> Path:
    _gone(root.short_name(2))
    return root.layers[2][1]


@fault("short name missing in the middle", "stack")
def _no_short_name_below(root: BadRoot) -> Path:
    _gone(root.short_name(1))
    return root.layers[1][1]


@fault("short name of another layer", "stack")
def _wrong_short_name(root: BadRoot) -> Path:
    path = root.short_name(1)
    path.unlink()
    path.symlink_to(f"../{root.layers[0][1].name}/diff")
    return root.layers[1][1]


@fault("parent missing: half a stack", "stack")
def _no_parent(root: BadRoot) -> Path:
    _gone(root.layers[2][0] / "parent")
    return root.layers[2][1] / "lower"


@fault("config of a wrong hash", "config")
def _wrong_config(root: BadRoot) -> Path:
    root.config.write_bytes(root.config.read_bytes() + b"\n")
    return root.config


@fault("config cut", "config")
def _cut_config(root: BadRoot) -> Path:
    return _cut(root.config, 40)


fault("repositories.json cut", "names")(lambda root: _cut(root.image / "repositories.json", 30))
fault("repositories.json emptied", "names")(lambda root: _cut(root.image / "repositories.json"))


@fault("repositories.json of another shape", "names")
def _odd_names(root: BadRoot) -> Path:
    path = root.image / "repositories.json"
    path.write_text('{"Repositories":["sick:1"]}')
    return path


@fault("a name of an image that is not there", "")
def _lost_name(root: BadRoot) -> Path:
    path = root.image / "repositories.json"
    document = json.loads(path.read_text())
    document["Repositories"]["lost"] = {"lost:1": "sha256:" + "0" * 64}
    path.write_text(json.dumps(document))
    return path


fault("directory of the container", "box")(lambda root: _gone(root.mount))
fault("directory of the init layer", "box")(lambda root: _gone(root.init))
fault("lower of the container emptied", "box")(lambda root: _cut(root.mount / "lower"))
fault("container record unreadable", "box")(lambda root: _cut(root.box / "config.v2.json", 50).parent)


@fault("container without a mount record", "box")
def _no_mount_record(root: BadRoot) -> Path:
    _gone(root.mount_record)
    return root.box


@fault("mount record without a container", "gone")
def _lone_mount(root: BadRoot) -> Path:
    _gone(root.box)
    return root.mount_record


@fault("folder of a layer half stored", "")
def _write_set(root: BadRoot) -> Path:
    path = root.layerdb / "tmp/write-set-123456789"
    path.mkdir()
    (path / "diff").write_text("sha256:" + "1" * 64)
    return path


@fault("record half removed", "")
def _removing(root: BadRoot) -> Path:
    path = root.layerdb / "sha256" / f"{'2' * 64}-{'3' * 64}-removing"
    shutil.copytree(root.layers[0][0], path)
    return path


@fault("config half written", "")
def _half_config(root: BadRoot) -> Path:
    path = root.config.with_name(".tmp-" + root.config.name + "123")
    path.write_text("{")
    return path


@fault("directory without a record", "")
def _orphan(root: BadRoot) -> Path:
    path = root.overlay / ("4" * 64)
    (path / "diff").mkdir(parents=True)
    (path / "link").write_text("A" * 26)
    return path


@fault("short name of nothing", "")
def _stray(root: BadRoot) -> Path:
    path = root.overlay / "l" / ("B" * 26)
    path.symlink_to(f"../{'5' * 64}/diff")
    return path


def copy_root(source: Path, target: Path) -> BadRoot:
    """A copy with owners, modes, links and xattrs."""
    builders.run_command("cp", "-a", source, target)
    return BadRoot(target)


def full_listing(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything in a root but what minidock keeps for itself: kinds, modes, owners, contents, link targets."""
    listing: dict[str, tuple[object, ...]] = {}
    for where, directories, files in os.walk(root):
        if where == str(root) and "minidock" in directories:
            directories.remove("minidock")
        for name in directories + files:
            path = os.path.join(where, name)
            status = os.lstat(path)
            content = ""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            listing[path] = (status.st_mode, status.st_uid, status.st_gid, content)
    return listing


def images(busybox_layer: bytes) -> list[builders.ImageSpec]:
    """`sick:1` of three layers and `well:1`, which shares none of them."""

    def layer(word: bytes) -> bytes:
        return builders.layer_tar(builders.directory(b"data"), builders.tar_member(b"data/" + word, word))

    well = busybox_layer[: -len(builders.END)] + builders.tar_member(b"well", b"well") + builders.END
    return [
        builders.ImageSpec([busybox_layer, layer(b"one"), layer(b"two")], tags=["sick:1"]),
        builders.ImageSpec([well], tags=["well:1"]),
    ]
