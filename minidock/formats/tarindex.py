"""The members of an image archive, indexed once by their headers and read in place.

An archive is never unpacked: a manifest's names are keys into this index and never paths on a disk, so that
nothing in it can reach a file of the host (CVE-2014-9356, CVE-2014-9358; podman once wrote through such a link).

Source: POSIX pax, "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format"; Go archive/tar
"""

from __future__ import annotations

import os

from minidock.constants import MAX_EXTENDED_HEADER_BYTES
from minidock.errors import BadArchive, UnsafePath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 512
# An image archive has a handful of members for each layer; with more than this it is the tree of a root.
MAX_MEMBERS = 65536
_MAX_LINKS = 16
_ZEROS = bytes(BLOCK_BYTES)
_HEADER_ONLY = b"123456"


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
        raise UnsafePath(f"the archive names the absolute path {_shown(name)}")
    parts: list[bytes] = [part for part in folder.split(b"/") if part]
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part != b"..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            raise UnsafePath(f"the archive names {_shown(name)}, which is outside of it")
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
                self.unsafe = self.unsafe or error

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
        key = member_key(name.encode("utf-8", "surrogateescape"))
        for _ in range(_MAX_LINKS):
            member = self._members.get(key)
            if member is None or member.kind == "other":
                return None
            if member.kind == "file":
                return member
            folder = key.rpartition(b"/")[0] if member.kind == "symlink" else b""
            key = member_key(member.target, folder=folder)
        raise UnsafePath(f"{self.what}: {name[:100]!r}: too many levels of symbolic links")

    def close(self) -> None:
        """Close the archive's file."""
        os.close(self.fd)


def is_tar_header(block: bytes) -> bool:
    """Whether a block's checksum says that it is a tar header."""
    if len(block) < BLOCK_BYTES:
        return False
    try:
        stored = _number(block[148:156])
    except ValueError:
        return False
    rest = block[:148] + b" " * 8 + block[156:BLOCK_BYTES]
    # Some old tars summed signed characters.
    return stored in (sum(rest), sum(rest) - 256 * sum(byte > 127 for byte in rest))


def _scan(fd: int, offset: int, end: int, what: str) -> Iterator[tuple[bytes, Member]]:
    """Yield names and members; the data is skipped, not read."""
    extended: dict[bytes, bytes] = {}
    while offset < end:
        block = os.pread(fd, BLOCK_BYTES, offset)
        if block == _ZEROS:
            return
        if len(block) < BLOCK_BYTES or offset + BLOCK_BYTES > end:
            raise BadArchive(f"{what}: truncated in a header at byte {offset}")
        if not is_tar_header(block):
            raise BadArchive(f"{what}: the tar header at byte {offset} is corrupt")
        offset += BLOCK_BYTES
        kind = block[156:157]
        size = _size(block, extended, what) if kind not in _HEADER_ONLY else 0
        if offset + size > end:
            raise BadArchive(f"{what}: truncated: a member needs {size} bytes and {end - offset} are left")
        if kind in b"xLK":
            extended.update(_read_extended(fd, offset, size, kind, what))
        elif kind != b"g":
            yield _member(block, kind, offset, size, extended)
            extended = {}
        offset += -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _member(block: bytes, kind: bytes, offset: int, size: int, extended: dict[bytes, bytes]) -> tuple[bytes, Member]:
    name = extended.get(b"path") or _string(block[0:100])
    if b"path" not in extended and block[257:263] == b"ustar\0" and block[345]:
        name = _string(block[345:500]) + b"/" + name
    sparse = any(key.startswith(b"GNU.sparse.") for key in extended)
    words = {b"0": "file", b"\0": "file", b"7": "file", b"1": "hardlink", b"2": "symlink"}
    word = "other" if sparse or name.endswith(b"/") else words.get(kind, "other")
    return name, Member(word, offset, size, extended.get(b"linkpath") or _string(block[157:257]))


def _size(block: bytes, extended: dict[bytes, bytes], what: str) -> int:
    field = extended.get(b"size")
    try:
        size = _number(block[124:136]) if field is None or block[156:157] in b"xgLK" else int(field)
    except ValueError:
        size = -1
    if size < 0 or size >= 1 << 63:
        raise BadArchive(f"{what}: a tar header has an impossible size")
    return size


def _read_extended(fd: int, offset: int, size: int, kind: bytes, what: str) -> dict[bytes, bytes]:
    if size > MAX_EXTENDED_HEADER_BYTES:
        raise BadArchive(f"{what}: an extended header of {size} bytes, more than {MAX_EXTENDED_HEADER_BYTES}")
    data = os.pread(fd, size, offset)
    if len(data) < size:
        raise BadArchive(f"{what}: truncated in an extended header")
    if kind != b"x":
        return {b"path" if kind == b"L" else b"linkpath": data.rstrip(b"\0")}
    records: dict[bytes, bytes] = {}
    while data:
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
        record = data[len(digits) + 1 : length]
        key, equals, value = record[:-1].partition(b"=")
        if length > len(data) or not equals or not record.endswith(b"\n"):
            raise BadArchive(f"{what}: a pax header is corrupt")
        records[key] = value
        data = data[length:]
    return records


def _number(field: bytes) -> int:
    """An octal number, or GNU's base-256 for what octal cannot hold."""
    if field[0] & 0x80:
        number = int.from_bytes(field, "big")
        # Bit 6 of the first byte is the sign; what remains is two's complement.
        return (number & ((1 << (8 * len(field) - 1)) - 1)) if not field[0] & 0x40 else -1
    text = field.strip(b" \0")
    if text.strip(b"01234567"):
        raise ValueError("not octal")
    return int(text or b"0", 8)


def _string(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _shown(name: bytes) -> str:
    return ascii(os.fsdecode(name[:100]))
