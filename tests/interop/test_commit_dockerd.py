"""The same upper directory, committed by Docker's engine and by minidock: equal digests and diffs."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minidock.store.changes import write_layer
from minidock.store.root import DataRoot
from minidock.verbs.diff import diff
from tests import builders
from tests.conftest import Engine
from tests.integration.test_changes import Upper, random_upper
from tests.interop.engines import Release

SECOND = 1_000_000_000
EMPTY = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


def base_image() -> builders.ImageSpec:
    """Two layers with something of every kind to change."""
    lower = builders.layer_tar(
        builders.directory(b"etc"),
        builders.tar_member(b"etc/conf", b"conf\n"),
        builders.tar_member(b"etc/other", b"other\n"),
        builders.directory(b"tree"),
        builders.directory(b"tree/sub"),
        builders.tar_member(b"tree/sub/leaf", b"leaf\n"),
        builders.tar_member(b"tree/one", b"1"),
        builders.tar_member(b"linked", b"linked\n"),
        builders.hardlink(b"linked-too", b"linked"),
        builders.symlink(b"pointer", b"etc/conf"),
        builders.symlink(b"pointed", b"etc"),
        builders.directory(b"tmp", mode=0o1777),
    )
    upper = builders.layer_tar(builders.directory(b"data"), builders.tar_member(b"data/mine", b"mine\n"))
    return builders.ImageSpec([lower, upper], tags=["commitbase:1"])


@pytest.fixture(scope="module")
def base(running: Engine, session_scratch: Path) -> Iterator[str]:
    archive = builders.docker_archive(session_scratch / "commitbase.tar", base_image())
    running.docker("load", "-i", archive)
    yield "commitbase:1"
    running.docker("rmi", "-f", "commitbase:1", check=False)


class Changed:
    """A container of the engine, whose root is mounted for a moment to be changed by the kernel's own overlayfs."""

    def __init__(self, engine: Engine, image: str, *words: str) -> None:
        self.engine = engine
        self.id = engine.docker("create", "--network", "none", *words, image, "/bin/true").stdout.strip()
        facts = json.loads(engine.docker("inspect", self.id).stdout)[0]
        self.data: dict[str, str] = facts["GraphDriver"]["Data"]
        self.layers = len(base_image().layers)

    @property
    def upper(self) -> str:
        return self.data["UpperDir"]

    def change(self, merged: Path, act: Callable[[Path], None]) -> None:
        merged.mkdir()
        options = f"index=off,redirect_dir=off,metacopy=off,lowerdir={self.data['LowerDir']}"
        options += f",upperdir={self.upper},workdir={self.data['WorkDir']}"
        builders.run_command("mount", "-t", "overlay", "overlay", "-o", options, merged)
        try:
            act(merged)
        finally:
            subprocess.run(["umount", str(merged)], check=True)

    def docker_diff_id(self) -> str:
        """What the engine makes of it; the empty tar's when no layer was added."""
        image = self.engine.docker("commit", self.id).stdout.strip()
        layers = json.loads(self.engine.docker("inspect", image).stdout)[0]["RootFS"]["Layers"]
        self.engine.docker("rmi", image)
        return str(layers[-1]) if len(layers) > self.layers else EMPTY

    def our_diff_id(self, place: Path, dialect: str) -> str:
        place.mkdir()
        upper_fd, diff_fd = os.open(self.upper, os.O_RDONLY), os.open(place, os.O_RDONLY)
        split_fd = os.open(place.with_suffix(".split"), os.O_RDWR | os.O_CREAT)
        try:
            return write_layer(upper_fd, diff_fd, split_fd, dialect=dialect).diff_id
        finally:
            for handle in (upper_fd, diff_fd, split_fd):
                os.close(handle)

    def docker_changes(self) -> list[str]:
        # The engine's order is that of a Go map, another each time.
        return sorted(self.engine.docker("diff", self.id).stdout.splitlines())

    def our_changes(self) -> list[str]:
        with DataRoot.open(str(self.engine.root), write=False) as root:
            changes = diff(root, self.id)
        text = "\n".join(f"{change.kind} {change.path}" for change in changes)
        # JSON cannot carry bytes that are not UTF-8, so docker shows U+FFFD; minidock's own result keeps them.
        return sorted(os.fsencode(text).decode("utf-8", "replace").splitlines())

    def remove(self) -> None:
        self.engine.docker("rm", "-f", self.id)


def new_file(root: Path) -> None:
    (root / "new").write_text("new\n")


def modified(root: Path) -> None:
    with open(root / "etc/conf", "a") as file:
        file.write("more\n")


def deleted(root: Path) -> None:
    (root / "etc/conf").unlink()


def several_deleted(root: Path) -> None:
    for name in ("etc/conf", "etc/other", "tree/one", "linked"):
        (root / name).unlink()


def tree_deleted(root: Path) -> None:
    shutil.rmtree(root / "tree")


def directory_made_anew(root: Path) -> None:
    shutil.rmtree(root / "tree")
    (root / "tree").mkdir(mode=0o711)
    (root / "tree/fresh").write_text("fresh")


def sticky_directory_made_anew(root: Path) -> None:
    shutil.rmtree(root / "tree/sub")
    (root / "tree/sub").mkdir()
    os.chown(root / "tree/sub", 7, 9)
    (root / "tree/sub").chmod(0o3770)


def file_becomes_directory(root: Path) -> None:
    (root / "etc/conf").unlink()
    (root / "etc/conf").mkdir()
    (root / "etc/conf/in").write_text("in")


def directory_becomes_file(root: Path) -> None:
    shutil.rmtree(root / "tree")
    (root / "tree").write_text("a file now")


def renamed(root: Path) -> None:
    (root / "etc/conf").rename(root / "etc/conf.old")
    (root / "data/mine").rename(root / "tmp/mine")


def mode_only(root: Path) -> None:
    (root / "etc/conf").chmod(0o600)
    (root / "data").chmod(0o700)


def owner_and_special_bits(root: Path) -> None:
    os.chown(root / "etc/other", 33, 33)
    (root / "etc/other").chmod(0o6755)
    (root / "shared").mkdir()
    (root / "shared").chmod(0o3777)


def hard_links(root: Path) -> None:
    (root / "first").write_text("shared content")
    os.link(root / "first", root / "second")
    (root / "a-dir").mkdir()
    os.link(root / "first", root / "a-dir/third")


def hard_link_to_a_lower_file(root: Path) -> None:
    os.link(root / "etc/conf", root / "etc/conf.link")


def broken_hard_link(root: Path) -> None:
    with open(root / "linked", "a") as file:
        file.write("only here\n")


def symlinks(root: Path) -> None:
    os.symlink("x" * 100, root / "just-fits")
    os.symlink("y" * 101, root / "too-long")
    os.symlink("/nowhere/ü", root / "dangling")
    os.symlink("z" * 97 + "///" + "z" * 10, root / "slashes")


def long_names(root: Path) -> None:
    deep = root / ("p" * 90) / ("q" * 90) / ("r" * 90)
    deep.mkdir(parents=True)
    (deep / "leaf").write_text("x")
    (deep / ("s" * 200)).write_text("x")
    (root / ("n" * 100)).write_text("x")
    (root / ("m" * 101)).write_text("x")
    (root / ("t" * 255)).mkdir()


def odd_names(root: Path) -> None:
    where = os.fsencode(root)
    for name in (b"zw\xc3\xb6lf", b"latin-\xe9", b"new\nline", b"tab\t", b"-dash", b" ", b"a=b", b"back\\slash"):
        with open(where + b"/" + name, "wb") as file:
            file.write(name)
    os.makedirs(where + b"/d\xc3\xa9/\xff\xfe")


def capabilities(root: Path) -> None:
    for name, capability in (
        ("second", struct.pack("<5I", 0x02000001, 0x400, 0, 0, 0)),
        ("third", struct.pack("<6I", 0x03000001, 0x400, 0x20, 0, 0, 1000)),
    ):
        (root / name).write_text("bin")
        (root / name).chmod(0o755)
        os.setxattr(root / name, "security.capability", capability)
    os.link(root / "third", root / "third-too")
    long = root / ("d" * 60) / ("f" * 60)
    long.parent.mkdir()
    long.write_text("bin")
    os.setxattr(long, "security.capability", struct.pack("<5I", 0x02000001, 0x400, 0, 0, 0))


def other_xattrs(root: Path) -> None:
    os.setxattr(root / "etc/conf", "user.note", b"lost by commit")
    os.setxattr(root / "data", "trusted.note", b"lost too")


def large_file(root: Path) -> None:
    (root / "large").write_bytes(random.Random(3).randbytes((6 << 20) + 77))


def sparse_file(root: Path) -> None:
    with open(root / "sparse", "wb") as file:
        file.truncate(9 << 20)
        file.seek(5 << 20)
        file.write(b"data")


def devices_and_fifos(root: Path) -> None:
    os.mknod(root / "char", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o660, os.makedev(259, 300))
    os.mkfifo(root / "fifo", 0o622)
    os.link(root / "char", root / "char-too")
    os.link(root / "fifo", root / "fifo-too")


def sockets_only(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))


def big_ids(root: Path) -> None:
    for number, name in ((2097151, "fits"), (2097152, "too-big"), (4294967294, "huge")):
        (root / name).write_text(name)
        os.chown(root / name, number, number)


def times(root: Path) -> None:
    for number, time_ns in enumerate((0, -1, -SECOND, 1, 9_999_999_999 * SECOND, 2**33 * SECOND - 1, 2**33 * SECOND)):
        (root / f"time{number}").write_text("x")
        os.utime(root / f"time{number}", ns=(time_ns, time_ns))


def sort_order(root: Path) -> None:
    for name in ("o", "o-", "o!"):
        (root / name).mkdir()
        (root / name / "x").write_text("x")
    for name in ("o.txt", "o-y", "O", "o0", "_", "~"):
        (root / name).write_text("x")


def touched_directories(root: Path) -> None:
    (root / "tree/sub/new").write_text("x")
    (root / "tree/sub/new").unlink()


def users_of_the_host(root: Path) -> None:
    for number in (0, 1, 2, 33, 65534, 54321):
        (root / f"user{number}").write_text("x")
        os.chown(root / f"user{number}", number, number)


def everything(root: Path) -> None:
    for act in (
        renamed, several_deleted, directory_made_anew, hard_links, odd_names, capabilities, devices_and_fifos, big_ids,
        times, sort_order, users_of_the_host,
    ):  # fmt: skip
        try:
            act(root)
        except FileNotFoundError:
            # An act before has taken its file away; the rest goes on.
            continue


CASES = [
    new_file, modified, deleted, several_deleted, tree_deleted, directory_made_anew, sticky_directory_made_anew,
    file_becomes_directory, directory_becomes_file, renamed, mode_only, owner_and_special_bits, hard_links,
    hard_link_to_a_lower_file, broken_hard_link, symlinks, long_names, odd_names, capabilities, other_xattrs,
    large_file, sparse_file, devices_and_fifos, sockets_only, big_ids, times, sort_order, touched_directories,
    users_of_the_host, everything,
]  # fmt: skip


@pytest.mark.parametrize("act", CASES)
def test_equal_diff_id_and_equal_diff(
    act: Callable[[Path], None], running: Engine, release: Release, base: str, scratch: Path
) -> None:
    container = Changed(running, base)
    try:
        container.change(scratch / "merged", act)
        assert container.our_diff_id(scratch / "layer", release.dialect) == container.docker_diff_id()
        assert container.our_changes() == container.docker_changes()
    finally:
        container.remove()


@pytest.mark.parametrize("seed", range(12))
def test_random_uppers_have_equal_diff_ids(
    seed: int, running: Engine, release: Release, base: str, scratch: Path
) -> None:
    container = Changed(running, base)
    try:
        upper = Upper(scratch / "upper")
        random_upper(upper, random.Random(1000 + seed))
        builders.run_command("cp", "-a", f"{scratch}/upper/.", container.upper)
        assert container.our_diff_id(scratch / "layer", release.dialect) == container.docker_diff_id()
    finally:
        container.remove()


def random_edits(root: Path, source: random.Random) -> None:
    """What a busy container does to its tree, through the kernel's overlayfs."""
    for turn in range(source.randrange(5, 40)):
        paths = sorted(path for path in root.rglob("*") if not path.is_symlink())
        path = source.choice(paths) if paths else root
        folder = path if path.is_dir() else path.parent
        act = source.randrange(9)
        if act == 0:
            (folder / f"new{turn}").write_text("x" * source.randrange(50))
        elif act == 1:
            (folder / f"dir{turn}").mkdir()
        elif act == 2 and path.is_dir():
            shutil.rmtree(path)
        elif act == 3 and path.is_dir():
            shutil.rmtree(path)
            path.mkdir()
        elif act == 4 and path.is_file():
            path.unlink()
        elif act == 5 and path.is_file():
            os.link(path, folder / f"link{turn}")
        elif act == 6 and path.is_file():
            path.rename(source.choice([p for p in paths if p.is_dir()] or [root]) / f"moved{turn}")
        elif act == 7:
            path.chmod(source.choice((0o700, 0o755, 0o644)))
        elif path.is_file():
            with open(path, "a") as file:
                file.write("more")


@pytest.mark.parametrize("seed", range(10))
def test_random_edits_have_equal_diff_ids_and_diffs(
    seed: int, running: Engine, release: Release, base: str, scratch: Path
) -> None:
    container = Changed(running, base)
    try:
        container.change(scratch / "merged", lambda root: random_edits(root, random.Random(seed)))
        assert container.our_diff_id(scratch / "layer", release.dialect) == container.docker_diff_id()
        assert container.our_changes() == container.docker_changes()
    finally:
        container.remove()


def test_uppers_deeper_than_the_descriptors_allowed(
    running: Engine, release: Release, base: str, scratch: Path
) -> None:
    container = Changed(running, base)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        os.makedirs(container.upper + "/d" * 400)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        ours = container.our_diff_id(scratch / "layer", release.dialect)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert ours == container.docker_diff_id()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        container.remove()
