"""Random things that a container may do to its tree, done through the kernel's own overlayfs."""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
import stat
import struct
from collections.abc import Callable

SECOND_NS = 1_000_000_000
NAMES = (
    b"a", b"b", b"b-", b"b.txt", b"A", b"~", b" ", b"new\nline", b"tab\t", b"-rf", b"a=b", b"back\\slash",
    b"\xff\xfe", "zwölf".encode(), "日本語".encode(), b".hidden", b"..dots", b"n" * 99, b"n" * 100, b"n" * 101,
    b"n" * 155, b"n" * 255, "é".encode() * 60, b"wh.x", b"x.wh.", b"PaxHeaders.0", b"conf", b"sub", b"leaf",
)  # fmt: skip
SIZES = (0, 1, 100, 511, 512, 513, 4096, 10_000, 65_535, 65_536, 65_537)
MODES = (0o644, 0o600, 0o000, 0o755, 0o4755, 0o2711, 0o1777, 0o7777)
OWNERS = (0, 1, 33, 1000, 65534, 2097151, 2097152, 3_000_000, 4_294_967_294)
TIMES_NS = (
    0, 1, -1, -SECOND_NS, 1_600_000_000_999_999_999, 1_600_000_000 * SECOND_NS, 2**33 * SECOND_NS - 1,
    2**33 * SECOND_NS, 4_102_444_800_123_456_789,
)  # fmt: skip
# What a kernel or a file system may refuse without the case being less of one.
REFUSALS = (
    errno.EXDEV, errno.ENOTSUP, errno.EEXIST, errno.ENAMETOOLONG, errno.EPERM, errno.ENOTEMPTY,
    errno.ENOTDIR, errno.EISDIR,
)  # fmt: skip


class Script:
    """A run of random acts on one tree."""

    def __init__(self, root: bytes, source: random.Random) -> None:
        self.root = root
        self.source = source
        self.done: list[str] = []

    def run(self, acts: int) -> None:
        """Do so many acts; what was done stands in `done`, for a failure's sake."""
        for _ in range(acts):
            act = self.source.choices(ACTS, WEIGHTS)[0]
            try:
                if act(self) is not False:
                    self.done.append(act.__name__)
            except OSError as error:
                if error.errno not in REFUSALS:
                    raise AssertionError(f"{self.done} {act} {error}") from error

    def paths(self, kind: Callable[[int], bool]) -> list[bytes]:
        """The paths of one kind; below a link nothing is looked at."""
        found = []
        for where, directories, files in os.walk(self.root):
            directories.sort()
            for name in sorted(directories + files):
                path = where + b"/" + name
                if kind(os.lstat(path).st_mode):
                    found.append(path)
        return found

    def one(self, kind: Callable[[int], bool]) -> bytes | None:
        """Some path of this kind."""
        found = self.paths(kind)
        return self.source.choice(found) if found else None

    def folder(self) -> bytes:
        """Some directory."""
        return self.source.choice([self.root, *self.paths(stat.S_ISDIR)])

    def fresh(self) -> bytes:
        """A path where perhaps nothing is yet."""
        return self.folder() + b"/" + self.source.choice(NAMES)

    def create(self) -> None:
        path = self.fresh()
        with open(path, "xb") as file:
            file.write(self.source.randbytes(self.source.choice(SIZES)))
        os.chmod(path, self.source.choice(MODES))

    def overwrite(self) -> bool:
        path = self.one(stat.S_ISREG)
        if path is None:
            return False
        with open(path, self.source.choice(("wb", "ab", "r+b"))) as file:
            file.write(self.source.randbytes(self.source.choice(SIZES)))
        return True

    def large(self) -> None:
        with open(self.fresh(), "xb") as file:
            file.write(self.source.randbytes(1 << 16) * self.source.choice((16, 17, 48)) + b"end")

    def sparse(self) -> None:
        with open(self.fresh(), "xb") as file:
            file.truncate(self.source.randrange(1, 3 << 20))
            for _ in range(self.source.randrange(3)):
                file.seek(self.source.randrange(3 << 20))
                file.write(b"data")

    def delete(self) -> bool:
        path = self.one(lambda mode: not stat.S_ISDIR(mode))
        if path is None:
            return False
        os.unlink(path)
        return True

    def delete_tree(self) -> bool:
        path = self.one(stat.S_ISDIR)
        if path is None:
            return False
        shutil.rmtree(path)
        return True

    def remake_directory(self) -> bool:
        path = self.one(stat.S_ISDIR)
        if path is None:
            return False
        shutil.rmtree(path)
        os.mkdir(path)
        os.chown(path, self.source.choice(OWNERS), self.source.choice(OWNERS))
        os.chmod(path, self.source.choice(MODES))
        return True

    def become_directory(self) -> bool:
        path = self.one(lambda mode: not stat.S_ISDIR(mode))
        if path is None:
            return False
        os.unlink(path)
        os.mkdir(path)
        return True

    def become_file(self) -> bool:
        path = self.one(stat.S_ISDIR)
        if path is None:
            return False
        shutil.rmtree(path)
        with open(path, "wb") as file:
            file.write(b"a file now")
        return True

    def make_directory(self) -> None:
        path = self.fresh()
        os.mkdir(path)
        os.chmod(path, self.source.choice(MODES))

    def deep_path(self) -> None:
        path = self.folder()
        for _ in range(self.source.randrange(2, 12)):
            # Never through a link, which may point at the host.
            path += b"/" + self.source.choice(NAMES)
            os.mkdir(path)

    def rename(self) -> bool:
        path = self.one(lambda mode: True)
        if path is None:
            return False
        target = self.fresh()
        if target.startswith(path):
            return False
        os.rename(path, target)
        return True

    def hard_link(self) -> bool:
        path = self.one(lambda mode: not stat.S_ISDIR(mode))
        if path is None:
            return False
        os.link(path, self.fresh(), follow_symlinks=False)
        return True

    def symlink(self) -> None:
        length = self.source.choice((1, 99, 100, 101, 300))
        target = self.source.choice(
            (b"/etc/conf", b"../" * 40, "ü".encode() * 20, b"t" * length, b"x/" * (length // 2))
        )
        os.symlink(target or b".", self.fresh())

    def device(self) -> None:
        kind = self.source.choice((stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK))
        # 0:0 would be a whiteout, which overlayfs does not let through.
        os.mknod(
            self.fresh(),
            kind | 0o620,
            os.makedev(self.source.choice((1, 259, 4095)), self.source.choice((0, 300, 99999))),
        )

    def socket(self) -> None:
        folder = os.open(self.folder(), os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"/proc/self/fd/{folder}/socket{self.source.randrange(9)}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        finally:
            os.close(folder)

    def mode(self) -> bool:
        path = self.one(lambda mode: not stat.S_ISLNK(mode))
        if path is None:
            return False
        os.chmod(path, self.source.choice(MODES))
        return True

    def owner(self) -> bool:
        path = self.one(lambda mode: True)
        if path is None:
            return False
        os.lchown(path, self.source.choice(OWNERS), self.source.choice(OWNERS))
        return True

    def time(self) -> bool:
        path = self.one(lambda mode: True)
        if path is None:
            return False
        time_ns = self.source.choice((*TIMES_NS, self.source.randrange(2**61)))
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
        return True

    def xattr(self) -> bool:
        path = self.one(lambda mode: stat.S_ISREG(mode) or stat.S_ISDIR(mode))
        if path is None:
            return False
        which = self.source.randrange(4)
        if which == 0:
            os.setxattr(path, "user.note", b"lost by commit")
        elif which == 1:
            os.setxattr(path, "trusted.note", b"lost too")
        elif stat.S_ISREG(os.lstat(path).st_mode):
            bits = self.source.randrange(1 << 30)
            capability = struct.pack("<5I", 0x02000001, bits, 0, 0, 0)
            if which == 3:
                capability = struct.pack("<6I", 0x03000001, bits, 7, 0, 0, 1000)
            os.setxattr(path, "security.capability", capability)
        return True


_WEIGHTED: dict[Callable[[Script], bool | None], int] = {
    Script.create: 12, Script.overwrite: 8, Script.large: 1, Script.sparse: 1, Script.delete: 8, Script.delete_tree: 3,
    Script.remake_directory: 4, Script.become_directory: 2, Script.become_file: 1, Script.make_directory: 8,
    Script.deep_path: 2, Script.rename: 6, Script.hard_link: 6, Script.symlink: 5, Script.device: 3, Script.socket: 1,
    Script.mode: 4, Script.owner: 4, Script.time: 10, Script.xattr: 4,
}  # fmt: skip
ACTS = list(_WEIGHTED)
WEIGHTS = list(_WEIGHTED.values())
