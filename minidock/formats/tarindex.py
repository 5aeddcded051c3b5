"""The members of an image archive, indexed once by their headers and read in place.

An archive is never unpacked: a manifest's names are keys into this index and never paths on a disk, so that
nothing in it can reach a file of the host (CVE-2014-9356, CVE-2014-9358; podman once wrote through such a link).
"""

from __future__ import annotations

import os

from minidock.errors import BadArchive, UnsafePath
from minidock.formats.tarheader import BLOCK
from minidock.formats.tarstream import GLOBAL_PAX, LINK, REGULAR, SYMLINK, TarReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# An image archive has a handful of members for each layer; with more than this it is the tree of a root.
MAX_MEMBERS = 65536
_MAX_LINKS = 16


class Member:
    """One member: where its data lies, or what it links to.

    Shape: kind "file", "symlink", "hardlink" or "other"; target only for the links
    Units: offset from the start of the file that holds the archive
    """

    __slots__ = ("kind", "length_bytes", "offset", "target")

    def __init__(self, kind: str, offset: int, length_bytes: int, target: bytes) -> None:
        self.kind = kind
        self.offset = offset
        self.length_bytes = length_bytes
        self.target = target


def member_key(name: bytes, *, folder: bytes = b"") -> bytes:
    """The index key of a member's name: no leading `./`, no doubled slashes, `..` resolved inside the archive.

    Shape:  folder: where a relative link starts from
    Raises: UnsafePath if the name is absolute or leaves the archive
    """
    if name.startswith(b"/"):
        raise UnsafePath(f"it names the absolute path {_shown(name)}")
    parts: list[bytes] = [part for part in folder.split(b"/") if part]
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part != b"..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            raise UnsafePath(f"it names {_shown(name)}, which is outside of the archive")
    return b"/".join(parts)


class TarMembers:
    """The members of a plain tar in a file that can be read at any offset. Close it to close the file.

    Shape: is_complete False when there were more than MAX_MEMBERS; unsafe: the first name that leaves the archive
    """

    def __init__(self, fd: int, *, offset: int, length_bytes: int, what: str) -> None:
        """Index the members; fd is owned from here on. Raises BadArchive."""
        self.fd = fd
        self.offset = offset
        self.length_bytes = length_bytes
        self.what = what
        self.is_complete = True
        self.unsafe: UnsafePath | None = None
        self._members: dict[bytes, Member] = {}
        for count, (name, member) in enumerate(_scan(fd, offset, offset + length_bytes, what)):
            if count >= MAX_MEMBERS:
                self.is_complete = False
                break
            try:
                # The last of several members with one name wins, as it would on a disk.
                self._members[member_key(name)] = member
            except UnsafePath as error:
                self.unsafe = self.unsafe or UnsafePath(f"{what}: {error.message}")

    def names(self) -> list[bytes]:
        """The keys of all members."""
        return list(self._members)

    def has_file(self, name: str) -> bool:
        """Whether a regular member, or a link to one, has this name."""
        return self._resolve(name) is not None

    def locate(self, name: str) -> tuple[int, int, int]:
        """The descriptor, offset and length of a regular member's data.

        Returns: the descriptor stays owned by this object
        Raises:  BadArchive if there is none; UnsafePath if the name or a link leaves the archive
        """
        member = self._resolve(name)
        if member is None:
            raise BadArchive(f"{self.what}: {_shown(os.fsencode(name))} is named by the manifest but is not in there")
        return self.fd, member.offset, member.length_bytes

    def _resolve(self, name: str) -> Member | None:
        try:
            return self._follow(member_key(name.encode("utf-8", "surrogateescape")))
        except UnsafePath as error:
            raise UnsafePath(f"{self.what}: {error.message}") from None

    def _follow(self, key: bytes) -> Member | None:
        name = key
        for _ in range(_MAX_LINKS):
            member = self._members.get(key)
            if member is None or member.kind == "other":
                return None
            if member.kind == "file":
                return member
            folder = key.rpartition(b"/")[0] if member.kind == "symlink" else b""
            key = member_key(member.target, folder=folder)
        raise UnsafePath(f"{_shown(name)}: too many levels of symbolic links")

    def close(self) -> None:
        """Close the archive's file."""
        os.close(self.fd)


def is_tar_header(block: bytes) -> bool:
    """Whether a block's checksum says that it is a tar header."""
    field = block[148:156].strip(b" \0")
    if len(block) < BLOCK or not field or field.strip(b"01234567"):
        return False
    rest = block[:148] + b" " * 8 + block[156:BLOCK]
    # Some old tars summed signed characters.
    return int(field, 8) in (sum(rest), sum(rest) - 256 * sum(byte > 127 for byte in rest))


class _Window:
    """Part of a file as the tar reader wants it, read at its own position, so that a shared descriptor stays put."""

    def __init__(self, fd: int, offset: int, end: int) -> None:
        self._fd = fd
        self._end = end
        self.position = offset

    def read(self, size: int) -> bytes:
        data = os.pread(self._fd, max(0, min(size, self._end - self.position)), self.position)
        self.position += len(data)
        return data

    def skip(self, size: int) -> int:
        start = self.position
        self.position = min(self._end, start + size)
        return self.position - start

    def pieces(self, size: int) -> Iterator[bytes]:
        while size > 0 and (piece := self.read(min(size, 1 << 20))):
            size -= len(piece)
            yield piece


def _scan(fd: int, offset: int, end: int, what: str) -> Iterator[tuple[bytes, Member]]:
    """Yield names and members; the data is skipped, not read."""
    kinds = {REGULAR: "file", b"7": "file", LINK: "hardlink", SYMLINK: "symlink"}
    try:
        for entry in TarReader(_Window(fd, offset, end)):
            if entry.data_offset + entry.data_bytes > end:
                left = max(0, end - entry.data_offset)
                raise BadArchive(f"truncated: {_shown(entry.name)} has {entry.data_bytes} bytes and {left} are left")
            if entry.type != GLOBAL_PAX:
                kind = "other" if entry.sparse is not None else kinds.get(entry.type, "other")
                yield entry.name, Member(kind, entry.data_offset, entry.data_bytes, entry.linkname)
    except BadArchive as error:
        raise BadArchive(f"{what}: {error.message.removeprefix('tar: ')}") from None


def _shown(name: bytes) -> str:
    return ascii(os.fsdecode(name[:100]))
