"""Lines of a body file, as The Sleuth Kit's mactime reads them.

    MD5|name|inode|mode_as_string|UID|GID|size|atime|mtime|ctime|crtime

Source: The Sleuth Kit 3.x, "Body file" format
"""

from __future__ import annotations

import stat

_KINDS = {
    stat.S_IFREG: "r",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "h",
}


class BodyLine:
    """One file. Shape: md5: 32 hex digits or "0"; name: with its layer; note behind it. Units: times in seconds"""

    __slots__ = (
        "atime_s",
        "crtime_s",
        "ctime_s",
        "gid",
        "inode",
        "md5",
        "mode",
        "mtime_s",
        "name",
        "size_bytes",
        "uid",
    )

    def __init__(self, name: bytes, status: tuple[int, int, int, int, int], times_s: tuple[int, int, int, int]) -> None:
        """status: inode, mode, uid, gid, size; times_s: atime, mtime, ctime, crtime."""
        self.md5 = "0"
        self.name = name
        self.inode, self.mode, self.uid, self.gid, self.size_bytes = status
        self.atime_s, self.mtime_s, self.ctime_s, self.crtime_s = times_s

    def text(self) -> str:
        """The line without its newline; what would break it or steer a terminal is escaped as `\\x7c`."""
        kind = _KINDS.get(stat.S_IFMT(self.mode), "-")
        mode = f"{kind}/{kind}{stat.filemode(self.mode)[1:]}"
        numbers = (self.uid, self.gid, self.size_bytes, self.atime_s, self.mtime_s, self.ctime_s, self.crtime_s)
        return "|".join((self.md5, _shown(self.name), str(self.inode), mode, *map(str, numbers)))


def _shown(name: bytes) -> str:
    text = name.decode("utf-8", "surrogateescape")
    if text.isprintable() and "|" not in text and "\\" not in text:
        return text
    return "".join(map(_letter, text))


def _letter(letter: str) -> str:
    if letter.isprintable() and letter not in "|\\":
        return letter
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
