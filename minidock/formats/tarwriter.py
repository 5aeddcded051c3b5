"""Tar headers exactly as Go's archive/tar writes them for Docker's engine.

A layer's diff_id is the hash of these bytes, so nothing here is a matter of taste. Plain ustar is used
whenever it can say everything; otherwise one PAX header goes before the entry. Three dialects exist:

    a   engines up to 20.10.26       owner names of the host, mode with the file type's bits
    b   20.10.27 to 23.0             no owner names, mode with the file type's bits
    c   24.0 and newer               no owner names, permission bits only

Source: Go archive/tar, Writer.WriteHeader; moby pkg/archive, tarAppender.addTarFile; shared format notes §8
"""

from __future__ import annotations

import stat
from zlib import adler32

from minidock.formats.whiteout import OPAQUE_MARKER, PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import TypeAlias

    # owner_names(uid, gid): the host's user and group name, empty where there is none
    OwnerNames: TypeAlias = Callable[[int, int], tuple[bytes, bytes]]

END_OF_ARCHIVE = bytes(1024)
BLOCK_BYTES = 512
DIALECTS = ("a", "b", "c")

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO, PAX = (b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"x")

_NAME_BYTES = 100
_PREFIX_BYTES = 155
_MAX_ID = 0o7777777
_MAX_SIZE_BYTES = 0o77777777777
_BLANK_CHECKSUM_SUM = 8 * 32
_NO_DEVICE = b"0000000\x000000000\0"
_PAX_DEVICE = bytes(16)
_PLAIN_TAIL = bytes(_NAME_BYTES) + b"ustar\x0000" + bytes(64) + _NO_DEVICE + bytes(167)
_PLAIN_TAIL_SUM = sum(_PLAIN_TAIL) + _BLANK_CHECKSUM_SUM

_TYPES = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK,
    stat.S_IFIFO: FIFO,
}


def padding(size_bytes: int) -> bytes:
    """The zeros that fill size_bytes of content up to whole blocks."""
    return bytes(-size_bytes % BLOCK_BYTES)


def split_ustar_name(name: bytes) -> tuple[bytes, bytes] | None:
    """The prefix and suffix of a name too long for one field, or None where no split serves.

    Source: Go archive/tar, splitUSTARPath
    """
    length = len(name)
    if length <= _NAME_BYTES or not name.isascii():
        return None
    if length > _PREFIX_BYTES + 1:
        length = _PREFIX_BYTES + 1
    elif name.endswith(b"/"):
        length -= 1
    slash = name.rfind(b"/", 0, length)
    suffix_bytes = len(name) - slash - 1
    if slash <= 0 or not 0 < suffix_bytes <= _NAME_BYTES:
        return None
    return name[:slash], name[slash + 1 :]


def _ascii(text: bytes) -> bytes:
    return text if text.isascii() else bytes(byte for byte in text if byte < 0x80)


def _field(text: bytes, width: int) -> bytes:
    if len(text) <= width:
        return text.ljust(width, b"\0")
    cut = text[:width]
    if cut.endswith(b"/"):
        # Go puts one NUL where the run of slashes begins and leaves the rest of the run.
        kept = len(cut.rstrip(b"/"))
        cut = cut[:kept] + b"\0" + cut[kept + 1 :]
    return cut


def _octal(value: int, width: int) -> bytes:
    if not 0 <= value < 8 ** (width - 1):
        value = 0
    return b"%0*o\0" % (width - 1, value)


def _with_checksum(head: bytes, tail: bytes) -> bytes:
    return b"%b%06o\0 %b" % (head, sum(head) + sum(tail) + _BLANK_CHECKSUM_SUM, tail)


def pax_record(key: bytes, value: bytes) -> bytes:
    """One `<length> key=value\\n` record, whose length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %b=%b\n" % (length, key, value)


def _pax_header(name: bytes, records: dict[bytes, bytes]) -> bytes:
    data = b"".join(pax_record(key, records[key]) for key in sorted(records))
    directory, slash, base = name.rpartition(b"/")
    # Joined as Go's path.Join does: an empty base leaves no slash behind.
    parts = (directory, b"PaxHeaders.0", base)
    pax_name = _ascii(b"/".join(part for part in parts if part))[:_NAME_BYTES].rstrip(b"/")
    head = _field(pax_name, _NAME_BYTES) + b"0000000\x000000000\x000000000\0%011o\x0000000000000\0" % len(data)
    tail = PAX + bytes(100) + b"ustar\x0000" + bytes(64) + _PAX_DEVICE + bytes(167)
    return _with_checksum(head, tail) + data + padding(len(data))


def encode_header(
    name: bytes,
    type: bytes,
    *,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    size_bytes: int = 0,
    mtime_s: int = 0,
    linkname: bytes = b"",
    uname: bytes = b"",
    gname: bytes = b"",
    devmajor: int = 0,
    devminor: int = 0,
    xattrs: dict[bytes, bytes] | None = None,
) -> bytes:
    """The header blocks of one entry: ustar, or a PAX header and ustar.

    Shape:   name as it stands in the tar, directories with a trailing slash; xattrs by full name
    Units:   mtime_s in whole seconds since 1970, may be negative
    Returns: 512 bytes, or a multiple with the PAX header in front
    Source:  Go archive/tar, Header.allowedFormats, writeUSTARHeader, writePAXHeader
    """
    if not (linkname or uname or gname or devmajor or devminor or xattrs):
        return _encode_bare(name, type, mode, uid, gid, size_bytes, mtime_s)
    return encode_any_header(
        name, type, mode, uid, gid, size_bytes, mtime_s, linkname, uname, gname, devmajor, devminor, xattrs or {}
    )


def _encode_bare(name: bytes, type: bytes, mode: int, uid: int, gid: int, size_bytes: int, mtime_s: int) -> bytes:
    """encode_header without names, link, device and attributes."""
    numbers_fit = 0 <= uid <= _MAX_ID and 0 <= gid <= _MAX_ID and 0 <= mtime_s <= _MAX_SIZE_BYTES >= size_bytes
    if not numbers_fit or len(name) > _NAME_BYTES or not name.isascii():
        return encode_any_header(name, type, mode, uid, gid, size_bytes, mtime_s, b"", b"", b"", 0, 0, {})
    # Nine entries of ten: one format, and a tail whose sum is known.
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(_NAME_BYTES, b"\0"), mode, uid, gid, size_bytes, mtime_s)
    # The low half of Adler-32 is 1 + the sum of the bytes, modulo 65521, which so many bytes of ASCII do not reach.
    total = (adler32(head) & 0xFFFF) - 1 + type[0] + _PLAIN_TAIL_SUM
    return b"%b%06o\0 %b%b" % (head, total, type, _PLAIN_TAIL)


def encode_any_header(
    name: bytes,
    type: bytes,
    mode: int,
    uid: int,
    gid: int,
    size_bytes: int,
    mtime_s: int,
    linkname: bytes,
    uname: bytes,
    gname: bytes,
    devmajor: int,
    devminor: int,
    xattrs: dict[bytes, bytes],
) -> bytes:
    """encode_header without its short way."""
    prefix = b""
    records: dict[bytes, bytes] = {}
    needs_pax = bool(xattrs)
    field_name = name
    if len(name) > _NAME_BYTES or not name.isascii():
        records[b"path"] = name
        if split := split_ustar_name(name):
            prefix, field_name = split
        else:
            needs_pax = True
    if len(linkname) > _NAME_BYTES or not linkname.isascii():
        records[b"linkpath"] = linkname
    for key, text in ((b"uname", uname), (b"gname", gname)):
        if len(text) > 32 or not text.isascii():
            records[key] = text
    for key, number, limit in (
        (b"uid", uid, _MAX_ID),
        (b"gid", gid, _MAX_ID),
        (b"size", size_bytes, _MAX_SIZE_BYTES),
        (b"mtime", mtime_s, _MAX_SIZE_BYTES),
    ):
        if not 0 <= number <= limit:
            records[key] = b"%d" % number
    extended = b""
    if needs_pax or len(records) > (b"path" in records):
        for xattr, value in xattrs.items():
            records[b"SCHILY.xattr." + xattr] = value
        extended = _pax_header(name, records)
        prefix, field_name = b"", _ascii(name)
        linkname, uname, gname = _ascii(linkname), _ascii(uname), _ascii(gname)
    head = b"%b%b%b%b%b%b" % (
        _field(field_name, _NAME_BYTES),
        _octal(mode, 8),
        _octal(uid, 8),
        _octal(gid, 8),
        _octal(size_bytes, 12),
        _octal(mtime_s, 12),
    )
    tail = b"%b%bustar\x0000%b%b%b%b" % (
        type,
        _field(linkname, _NAME_BYTES),
        _field(uname, 32),
        _field(gname, 32),
        _octal(devmajor, 8) + _octal(devminor, 8) if devmajor or devminor else _NO_DEVICE,
        prefix.ljust(167, b"\0"),
    )
    return extended + _with_checksum(head, tail)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is overlayfs' mark of a deleted name: a character device 0:0."""
    return status.st_rdev == 0 and stat.S_ISCHR(status.st_mode)


def whiteout_name(path: bytes) -> bytes:
    """The name under which the deletion of path stands in a layer tar."""
    directory, slash, base = path.rpartition(b"/")
    return directory + slash + PREFIX + base


def portable_capability(value: bytes) -> bytes:
    """security.capability as Docker exports it: revision 3 becomes 2, since its root uid means nothing elsewhere.

    Source: moby pkg/archive, ReadSecurityXattrToTarHeader; linux/capability.h, VFS_CAP_REVISION_3
    """
    return value[:3] + b"\x02" + value[4:20] if value[3:4] == b"\x03" else value


class LayerHeaders:
    """The headers of one layer tar in one dialect, told from what lstat(2) says of each file.

    Shape: owner_names is asked in dialect a alone; None means no names; owners: what stands in the tar for the IDs that
           lstat(2) tells, None for those themselves
    """

    __slots__ = ("_type_bits", "_owner_names", "_owners")

    def __init__(
        self,
        dialect: str = "c",
        owner_names: OwnerNames | None = None,
        owners: Callable[[int, int], tuple[int, int]] | None = None,
    ) -> None:
        self._owners = owners
        if dialect not in DIALECTS:
            raise ValueError(f"no such dialect: {dialect!r}")
        self._type_bits = 0o170000 if dialect in "ab" else 0
        self._owner_names = owner_names if dialect == "a" else None

    def entry(
        self,
        path: bytes,
        status: os.stat_result,
        *,
        target: bytes = b"",
        first_link: bytes = b"",
        capability: bytes = b"",
    ) -> tuple[bytes, bytes]:
        """The name and the header blocks of one file of an upper directory.

        Shape:   path relative, without trailing slash; target of a symlink; first_link the path under which the
                 same inode went out before, or empty; capability as the xattr holds it
        Returns: the entry's name in the tar, its header
        """
        mode = status.st_mode
        tar_mode = (mode & 0o7777) | (mode & self._type_bits)
        if stat.S_ISREG(mode) and not (first_link or capability or self._owner_names or self._owners):
            # Most entries by far, which need no more than this.
            seconds = status.st_mtime_ns // 1_000_000_000
            numbers = (status.st_uid, status.st_gid, status.st_size, seconds)
            return path, _encode_bare(path, REGULAR, tar_mode, *numbers)
        name, linkname, size_bytes = path, target, 0
        type = _TYPES[stat.S_IFMT(mode)]
        device = status.st_rdev if type in (CHARACTER, BLOCK) else 0
        if first_link:
            type, linkname = HARD_LINK, first_link
        elif type == REGULAR:
            size_bytes = status.st_size
        elif type == DIRECTORY:
            name = path + b"/"
        if is_whiteout(status):
            # The engine turns the device into a file last, and forgets the link name that a shared inode gave it.
            name, type, tar_mode = whiteout_name(path), REGULAR, 0o600
        uid, gid = status.st_uid, status.st_gid
        if self._owners is not None:
            uid, gid = self._owners(uid, gid)
        uname, gname = self._owner_names(uid, gid) if self._owner_names else (b"", b"")
        header = encode_header(
            name,
            type,
            mode=tar_mode,
            uid=uid,
            gid=gid,
            size_bytes=size_bytes,
            mtime_s=status.st_mtime_ns // 1_000_000_000,
            linkname=linkname,
            uname=uname,
            gname=gname,
            devmajor=_major(device),
            devminor=_minor(device),
            xattrs={b"security.capability": portable_capability(capability)} if capability else None,
        )
        return name, header

    def opaque_marker(self, path: bytes, status: os.stat_result) -> tuple[bytes, bytes]:
        """The name and header of the marker that follows an opaque directory's own entry."""
        name = path + b"/" + OPAQUE_MARKER
        uname, gname = self._owner_names(status.st_uid, status.st_gid) if self._owner_names else (b"", b"")
        header = encode_header(
            name, REGULAR, mode=status.st_mode & 0o777, uid=status.st_uid, gid=status.st_gid, uname=uname, gname=gname
        )
        return name, header


def _major(device: int) -> int:
    # Linux' encoding of dev_t, the same on every architecture of 64 bits (glibc's sysmacros.h).
    return ((device >> 8) & 0xFFF) | ((device >> 32) & 0xFFFFF000)


def _minor(device: int) -> int:
    return (device & 0xFF) | ((device >> 12) & 0xFFFFFF00)
