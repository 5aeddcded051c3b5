"""A data root with every way in which a layer can put, change, hide and delete, and what reads the clock of a root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tests import builders

CHANGES = "rm /data/two; echo changed >/etc/passwd; mkdir /new; echo hi >/new/file; mv /data/same /data/moved"


def images(busybox_layer: bytes) -> list[builders.ImageSpec]:
    """`seen:1` of three layers, `seen:2` of its lower two, `other:1` which shares only the bottom."""
    middle = builders.layer_tar(
        builders.directory(b"data"),
        builders.tar_member(b"data/one", b"one\n"),
        builders.tar_member(b"data/two", b"two\n"),
        builders.tar_member(b"data/same", b"the same text\n" * 20),
        builders.directory(b"data/deep"),
        builders.tar_member(b"data/deep/three", b"three\n"),
        builders.tar_member(b"etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        builders.symlink(b"data/link", b"one"),
        builders.hardlink(b"data/again", b"data/one"),
    )
    top = builders.layer_tar(
        builders.directory(b"data"),
        builders.tar_member(b"data/.wh.one"),
        builders.directory(b"data/deep"),
        builders.tar_member(b"data/deep/.wh..wh..opq"),
        builders.tar_member(b"data/deep/four", b"4\n"),
        builders.tar_member(b".wh.home"),
        builders.tar_member(b"tmp", b"a file now\n"),
    )
    other = builders.layer_tar(builders.tar_member(b"other", b"other\n"))
    return [
        builders.ImageSpec([busybox_layer, middle, top], tags=["seen:1"]),
        builders.ImageSpec([busybox_layer, middle], tags=["seen:2"]),
        builders.ImageSpec([busybox_layer, other], tags=["other:1"]),
    ]


def stamps(root: Path) -> dict[str, tuple[int, ...]]:
    """Everything in a root with all its times, the access times too; this very look changes none of them."""
    found: dict[str, tuple[int, ...]] = {}

    def visit(path: str) -> None:
        status = os.lstat(path)
        found[path] = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
        if stat.S_ISDIR(status.st_mode):
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
            try:
                names = os.listdir(handle)
            finally:
                os.close(handle)
            for name in names:
                visit(f"{path}/{name}")

    visit(str(root))
    return found


def age(root: Path) -> None:
    """Give everything an access time before its change, which the very next reading would otherwise move."""
    for where, directories, files in os.walk(root, topdown=False):
        for name in (*directories, *files):
            path = os.path.join(where, name)
            os.utime(path, ns=(1_000_000_000, os.lstat(path).st_mtime_ns), follow_symlinks=False)
    os.utime(root, ns=(1_000_000_000, os.lstat(root).st_mtime_ns))
