"""Every kind of structural damage: how it is made, what fsck calls it, and whether repair has a proof to mend it by.

On top of the half-written roots of bad_roots.py; both are damaged copies of a root with `sick:1`, `well:1`, and a
container of each.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from tests.bad_roots import FAULTS, BadRoot

_MOST_BYTES = 1 << 28

# Name: (damage, the kinds of fault it is, whether repair leaves no error)
DAMAGES: dict[str, tuple[Callable[[BadRoot], object], set[str], bool]] = {}

_KINDS_OF_FAULTS: dict[str, tuple[set[str], bool]] = {
    "directory of the bottom layer": ({"directory"}, False),
    "directory of a middle layer": ({"directory"}, False),
    "directory of the top layer": ({"directory"}, False),
    "content of a middle layer": ({"content"}, False),
    "link emptied": ({"link"}, True),
    "link emptied in the middle": ({"link"}, True),
    "link missing": ({"link"}, True),
    "lower missing at the top": ({"lower"}, True),
    "lower emptied at the top": ({"lower"}, True),
    "lower emptied in the middle": ({"lower"}, True),
    "lower cut after its first name": ({"lower"}, True),
    "cache-id emptied": ({"cache-id"}, True),
    "size with a newline": ({"size"}, True),
    "record of a middle layer": ({"parent-missing", "image-chain"}, True),
    "record of the top layer: an image without its chain": ({"image-chain", "mount-parent"}, True),
    "short name missing at the top": ({"short-name"}, True),
    "short name missing in the middle": ({"short-name"}, True),
    "short name of another layer": ({"short-name"}, True),
    "parent missing: half a stack": ({"chain"}, True),
    "config of a wrong hash": ({"config"}, True),
    "config cut": ({"config"}, False),
    "repositories.json cut": ({"references"}, True),
    "repositories.json emptied": ({"references"}, True),
    "repositories.json of another shape": ({"references"}, True),
    "a name of an image that is not there": ({"tag"}, True),
    "directory of the container": ({"directory"}, False),
    "directory of the init layer": ({"directory"}, False),
    "lower of the container emptied": ({"lower"}, True),
    "container record unreadable": ({"container"}, False),
    "container without a mount record": ({"mount-missing", "orphan"}, True),
    "mount record without a container": ({"mount-lone"}, False),
    "folder of a layer half stored": ({"unfinished"}, False),
    "record half removed": ({"unfinished"}, False),
    "config half written": ({"unfinished"}, False),
    "directory without a record": ({"orphan"}, False),
    "short name of nothing": ({"stray-name"}, False),
}
for _name, (_, _act) in FAULTS.items():
    DAMAGES[_name] = (_act, *_KINDS_OF_FAULTS[_name])


def damage(name: str, *kinds: str, mends: bool = True) -> Callable[[Callable[[BadRoot], object]], None]:
    """Enter a kind of damage."""

    def keep(act: Callable[[BadRoot], object]) -> None:
        DAMAGES[name] = (act, set(kinds), mends)

    return keep


def _link_to(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


damage("link of another layer", "link-shared")(
    lambda root: (root.layers[2][1] / "link").write_bytes((root.layers[1][1] / "link").read_bytes())
)
damage("link with a newline and small letters", "link")(
    lambda root: (root.layers[1][1] / "link").write_text((root.layers[1][1] / "link").read_text().lower() + "\n")
)
damage("short name into nothing", "short-name")(lambda root: _link_to(root.short_name(1), f"../{'5' * 64}/diff"))
damage("short name out of the root", "short-name")(lambda root: _link_to(root.short_name(1), "/etc"))


@damage("short name a plain file", "short-name", "stray-name")
def _plain_name(root: BadRoot) -> None:
    path = root.short_name(1)
    path.unlink()
    path.write_text("x")


@damage("a second short name", "stray-name", mends=False)
def _second_name(root: BadRoot) -> None:
    (root.overlay / "l" / ("C" * 26)).symlink_to(f"../{root.layers[1][1].name}/diff")


@damage("all short names gone", "short-name")
def _no_names(root: BadRoot) -> None:
    for path in (root.overlay / "l").iterdir():
        path.unlink()


@damage("all links, short names and lowers gone", "link", "lower")
def _no_structure(root: BadRoot) -> None:
    for path in (root.overlay / "l").iterdir():
        path.unlink()
    for folder in root.overlay.iterdir():
        for name in ("link", "lower"):
            (folder / name).unlink(missing_ok=True)


@damage("lower in a wrong order", "lower")
def _wrong_order(root: BadRoot) -> None:
    path = root.layers[2][1] / "lower"
    path.write_text(":".join(reversed(path.read_text().split(":"))))


damage("lower at the bottom", "lower")(
    lambda root: (root.layers[0][1] / "lower").write_text("l/" + (root.layers[1][1] / "link").read_text())
)
damage("committed missing below others", "committed")(lambda root: (root.layers[1][1] / "committed").unlink())
damage("committed on a container", "committed-container")(lambda root: (root.mount / "committed").touch(0o600))
damage("work of a container missing", "work")(lambda root: shutil.rmtree(root.mount / "work"))
damage("cache-id poisoned", "cache-id")(lambda root: (root.layers[1][0] / "cache-id").write_text("../../../etc"))
damage("cache-id of no directory", "directory")(lambda root: (root.layers[1][0] / "cache-id").write_text("7" * 64))
damage("cache-id of another layer", "cache-id-shared")(
    lambda root: (root.layers[2][0] / "cache-id").write_text(root.layers[1][1].name)
)
damage("cache-id of a container", "cache-id-shared")(
    lambda root: (root.layers[2][0] / "cache-id").write_text(root.mount.name)
)
damage("diff of another layer", "chain")(
    lambda root: (root.layers[2][0] / "diff").write_bytes((root.layers[1][0] / "diff").read_bytes())
)
damage("diff emptied", "diff")(lambda root: os.truncate(root.layers[1][0] / "diff", 0))
damage("parent of another stack", "chain")(
    lambda root: (root.layers[2][0] / "parent").write_text("sha256:" + root.layers[0][0].name)
)
damage("parent malformed", "parent")(lambda root: (root.layers[2][0] / "parent").write_text("md5:1"))
damage("parent at the bottom", "chain")(
    lambda root: (root.layers[0][0] / "parent").write_text("sha256:" + root.layers[1][0].name)
)
damage("tar-split missing", "tar-split")(lambda root: (root.layers[1][0] / "tar-split.json.gz").unlink())
damage("tar-split cut", "tar-split")(lambda root: os.truncate(root.layers[2][0] / "tar-split.json.gz", 60))
damage("size emptied", "size")(lambda root: os.truncate(root.layers[1][0] / "size", 0))


@damage("records of both upper layers gone", "image-chain", "mount-parent")
def _no_records(root: BadRoot) -> None:
    for record, _ in root.layers[1:]:
        shutil.rmtree(record)


@damage("record lost while it was removed", "image-chain", "unfinished")
def _half_removed(root: BadRoot) -> None:
    record = root.layers[2][0]
    record.rename(record.with_name(f"{record.name}-{'8' * 64}-removing"))


@damage("tar-split of a layer that no commit made", "tar-split", mends=False)
def _no_other_split(root: BadRoot) -> None:
    (root.layers[1][0] / "tar-split.json.gz").unlink()
    os.utime(root.layers[1][1] / "diff/data/one", (5, 5))


damage("mount-id emptied", "mount-id")(lambda root: os.truncate(root.mount_record / "mount-id", 0))
damage("init-id missing", "init-id")(lambda root: (root.mount_record / "init-id").unlink())
damage("init-id of another", "init-id")(lambda root: (root.mount_record / "init-id").write_text("9" * 64 + "-init"))
damage("parent of a container missing", "mount-parent")(lambda root: (root.mount_record / "parent").unlink())


@damage("parent of a container of another image", "mount-parent")
def _wrong_mount_parent(root: BadRoot) -> None:
    chains = {path.name for path in (root.layerdb / "sha256").iterdir()}
    (other,) = chains - {record.name for record, _ in root.layers}
    (root.mount_record / "parent").write_text("sha256:" + other)


@damage("config cut, with a whole copy beside it", "config", "unfinished")
def _config_and_copy(root: BadRoot) -> None:
    shutil.copy2(root.config, root.config.with_name(f".tmp-{root.config.name}4711"))
    os.truncate(root.config, 40)


@damage("parent image that is not there", "metadata-parent")
def _unknown_parent(root: BadRoot) -> None:
    folder = root.image / "imagedb/metadata/sha256" / root.config.name
    folder.mkdir(exist_ok=True)
    (folder / "parent").write_text("sha256:" + "6" * 64)


@damage("metadata of no image", "metadata", mends=False)
def _lone_metadata(root: BadRoot) -> None:
    (root.image / "imagedb/metadata/sha256" / ("6" * 64)).mkdir()


def _change_record(root: BadRoot, change: Callable[[dict[str, object]], object]) -> None:
    path = root.box / "config.v2.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@damage("container marked as running", "running")
def _marked(root: BadRoot) -> None:
    # Process 2 is the kernel's in every boot, or some other program in a container.
    _change_record(root, lambda document: document["State"].update({"Running": True, "Pid": 2}))  # type: ignore[attr-defined]


damage("record of another container", "container", mends=False)(
    lambda root: _change_record(root, lambda document: document.update({"ID": "3" * 64}))
)


damage("a name that is a number", "container", mends=False)(
    lambda root: _change_record(root, lambda document: document.update({"Name": 5}))
)
damage("networks of a list", "container", mends=False)(
    lambda root: _change_record(root, lambda document: document.update({"NetworkSettings": []}))
)


@damage("a dead command's stage", "unfinished", mends=False)
def _stage(root: BadRoot) -> None:
    (root.path / f"minidock/stage/{'0' * 8}.1.1.dead").mkdir(parents=True)


@damage("content of a volume", "volume", mends=False)
def _volume(root: BadRoot) -> None:
    (root.path / "volumes/lost").mkdir(parents=True)


def _exchange(one: Path, other: Path) -> None:
    aside = one.with_name(f"{one.name}.aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


# Each part looks whole by itself; whoever made the rest follow the wrong one would put wrong files under the image.
damage("cache-ids of two layers exchanged", "lower")(
    lambda root: _exchange(root.layers[1][0] / "cache-id", root.layers[2][0] / "cache-id")
)
damage("records of two layers exchanged", "chain", "lower")(
    lambda root: _exchange(root.layers[1][0], root.layers[2][0])
)
damage("directories of two layers exchanged", "short-name", "lower")(
    lambda root: _exchange(root.layers[1][1], root.layers[2][1])
)
damage("links of two layers exchanged", "short-name")(
    lambda root: _exchange(root.layers[1][1] / "link", root.layers[2][1] / "link")
)
damage("short names of two layers exchanged", "short-name")(
    lambda root: _exchange(root.short_name(1), root.short_name(2))
)
damage("lowers of two layers exchanged", "lower")(
    lambda root: _exchange(root.layers[1][1] / "lower", root.layers[2][1] / "lower")
)
damage("diffs of two layers exchanged", "chain")(
    lambda root: _exchange(root.layers[1][0] / "diff", root.layers[2][0] / "diff")
)


@damage("one short name for three", "link-shared")
def _one_name(root: BadRoot) -> None:
    for _, directory in root.layers[1:]:
        (directory / "link").write_bytes((root.layers[0][1] / "link").read_bytes())


damage("all of l gone", "short-name")(lambda root: shutil.rmtree(root.overlay / "l"))
damage("all mount records gone", "mount-missing", "orphan")(lambda root: shutil.rmtree(root.layerdb / "mounts"))


@damage("a file in the place of l", "short-name")
def _file_for_directory(root: BadRoot) -> None:
    shutil.rmtree(root.overlay / "l")
    (root.overlay / "l").write_text("lost\n")


def _mount_records(root: BadRoot) -> tuple[Path, Path]:
    """sick-box's and well-box's."""
    (other,) = (path for path in root.mount_record.parent.iterdir() if path != root.mount_record)
    return root.mount_record, other


@damage("mount-ids of two containers exchanged", "init-id", "lower")
def _other_mounts(root: BadRoot) -> None:
    sick, well = _mount_records(root)
    _exchange(sick / "mount-id", well / "mount-id")


@damage("a container with another one's directory", "cache-id-shared", "init-id")
def _same_mounts(root: BadRoot) -> None:
    sick, well = _mount_records(root)
    (well / "mount-id").write_bytes((sick / "mount-id").read_bytes())


@damage("mount records of two containers exchanged", "mount-parent", mends=False)
def _other_records(root: BadRoot) -> None:
    _exchange(*_mount_records(root))


damage("repositories.json gone", "references")(lambda root: (root.image / "repositories.json").unlink())


def _move_out(root: BadRoot, name: str) -> None:
    """As an admin does who gives a part another disk, and forgets the bind mount."""
    elsewhere = root.path.parent / f"{root.path.name}-elsewhere"
    shutil.move(root.path / name, elsewhere)
    (root.path / name).symlink_to(elsewhere)


# Nothing may follow from their emptiness: neither that names lead to nothing, nor that layers are nobody's.
damage("imagedb gone", "folder", mends=False)(lambda root: shutil.rmtree(root.image / "imagedb"))
damage("imagedb a symlink", "folder", mends=False)(lambda root: _move_out(root, "image/overlay2/imagedb"))
damage("containers a symlink", "folder", mends=False)(lambda root: _move_out(root, "containers"))
damage("all containers gone", "folder", mends=False)(lambda root: shutil.rmtree(root.path / "containers"))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


# Whoever opens one waits for a writer who never comes.
damage("link a pipe", "link")(lambda root: _pipe(root.layers[1][1] / "link"))
damage("diff a pipe", "diff")(lambda root: _pipe(root.layers[1][0] / "diff"))
damage("tar-split a pipe", "tar-split")(lambda root: _pipe(root.layers[1][0] / "tar-split.json.gz"))
damage("config.v2.json a pipe", "container", mends=False)(lambda root: _pipe(root.box / "config.v2.json"))


@damage("cache-id a directory", "cache-id")
def _directory_for_file(root: BadRoot) -> None:
    (root.layers[1][0] / "cache-id").unlink()
    (root.layers[1][0] / "cache-id").mkdir()


damage("lower of a terabyte", "lower")(lambda root: os.truncate(root.layers[1][1] / "lower", 1 << 40))
damage("lower that leads out", "lower")(lambda root: (root.layers[2][1] / "lower").write_text("../../../etc:/usr"))
damage("link out of the root", "link")(lambda root: _link_to(root.layers[1][1] / "link", "/etc/hostname"))
damage("hostconfig.json cut", "container", mends=False)(lambda root: os.truncate(root.box / "hostconfig.json", 20))
damage("hostconfig.json missing", "container", mends=False)(lambda root: (root.box / "hostconfig.json").unlink())


def exact_listing(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything in a root but what minidock keeps for itself, with all that an inode holds but times of access."""
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
            elif stat.S_ISREG(status.st_mode) and status.st_size > _MOST_BYTES:
                content = f"{status.st_blocks} blocks of inode {status.st_ino}"
            elif stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            plain = (status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, status.st_rdev)
            listing[path] = (*plain, content, tuple(sorted(xattrs.items())))
    return listing
