"""Hostile and odd layers: one tar a label, with what must come of it (shared hazards, section A).

`OK` layers give the same tree in the engine and here, unless DIFFERS says why not; `REFUSED` ones end with one of
our errors and leave the host as it was. CANARY is a host directory that no case may change.
"""

from __future__ import annotations

import os

from tests.builders import (
    END,
    directory,
    hardlink,
    layer_tar,
    padded,
    pax_member,
    pax_record,
    symlink,
    tar_header,
    tar_member,
)

CANARY = b"/dev/shm/minidock-canary-%d" % os.getpid()
UP = b"../../../../../../../../.."
BIG_XATTR = b"v" * 66_000


def sparse_1_0(
    name: bytes, size: int, parts: list[tuple[int, bytes]], *, pretend: dict[bytes, bytes] | None = None
) -> bytes:
    """A member in GNU's PAX sparse format 1.0."""
    numbers = [len(parts)] + [number for offset, data in parts for number in (offset, len(data))]
    body = padded(b"".join(b"%d\n" % number for number in numbers)) + b"".join(data for _, data in parts)
    records = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": name,
        b"GNU.sparse.realsize": b"%d" % size,
        **(pretend or {}),
    }
    return tar_member(b"GNUSparseFile.0/" + name, body, pax=records)


def sparse_0(name: bytes, size: int, parts: list[tuple[int, bytes]], *, minor: int) -> bytes:
    """A member in GNU's PAX sparse format 0.0 or 0.1."""
    body = b"".join(data for _, data in parts)
    if minor == 1:
        text = b",".join(b"%d,%d" % (offset, len(data)) for offset, data in parts)
        records = pax_record(b"GNU.sparse.map", text) + pax_record(b"GNU.sparse.name", name)
    else:
        records = b"".join(
            pax_record(b"GNU.sparse.offset", b"%d" % offset) + pax_record(b"GNU.sparse.numbytes", b"%d" % len(data))
            for offset, data in parts
        )
    records += pax_record(b"GNU.sparse.size", b"%d" % size) + pax_record(b"GNU.sparse.numblocks", b"%d" % len(parts))
    return pax_member(records) + tar_member(name, body)


def sparse_gnu(name: bytes, size: int, parts: list[tuple[int, bytes]]) -> bytes:
    """A member in the old GNU sparse format, with as many extension blocks as the parts need."""
    body = b"".join(data for _, data in parts)
    entries = [b"%011o\0%011o\0" % (offset, len(data)) for offset, data in parts]
    header = bytearray(tar_header(name, type=b"S", size=len(body), magic=b"ustar  \0"))
    header[345:512] = bytes(167)
    header[386:482] = b"".join(entries[:4]).ljust(96, b"\0")
    header[483:495] = b"%011o\0" % size
    rest = entries[4:]
    header[482] = 1 if rest else 0
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    extensions = b""
    while rest:
        block, rest = rest[:21], rest[21:]
        extensions += b"".join(block).ljust(504, b"\0") + bytes([1 if rest else 0]) + bytes(7)
    return bytes(header) + extensions + padded(body)


PARTS = [(0, b"head"), (1 << 20, b"middle" * 100), ((4 << 20) - 4, b"tail")]
MANY_PARTS = [(number * 8192, b"%04d" % number) for number in range(60)]

OK: dict[str, bytes] = {
    "empty": END,
    "zero-bytes": b"",
    # A1
    "dotdot": layer_tar(tar_member(b"../x", b"x")),
    "slash-dotdot": layer_tar(tar_member(b"/../x", b"x")),
    "deep-dotdot": layer_tar(tar_member(b"a/b/../../../../../x", b"x")),
    "abs-canary": layer_tar(tar_member(CANARY + b"/abs", b"x")),
    "pax-path-escape": layer_tar(tar_member(b"x", b"x", pax={b"path": UP + CANARY + b"/pax"})),
    "inner-dotdot": layer_tar(directory(b"a"), tar_member(b"a/../b", b"b")),
    "dot-slash": layer_tar(directory(b"."), directory(b"./d"), tar_member(b"./d//f", b"x"), directory(b"/e/./g")),
    # A2
    "symlink-parent-inside": layer_tar(directory(b"real"), symlink(b"d", b"/real"), tar_member(b"d/x", b"x")),
    "symlink-parent-clamped": layer_tar(directory(b"real"), symlink(b"d", UP + b"/real"), tar_member(b"d/x", b"x")),
    "symlink-chain": layer_tar(symlink(b"a", b"b"), symlink(b"b", b"c"), directory(b"c"), tar_member(b"a/x", b"x")),
    "symlink-to-root": layer_tar(symlink(b"d", b"/"), tar_member(b"d/x", b"x")),
    "symlink-alias-dir": layer_tar(
        directory(b"b"), symlink(b"a", b"b"), directory(b"b/c"), directory(b"a/c", mode=0o711)
    ),
    # A3
    "hardlink": layer_tar(tar_member(b"f", b"data"), hardlink(b"h", b"f"), hardlink(b"d/h", b"./f")),
    "hardlink-abs-inside": layer_tar(tar_member(b"f", b"data"), hardlink(b"h", b"/f"), hardlink(b"i", UP + b"/f")),
    "hardlink-meta": layer_tar(
        tar_member(b"f", b"data", mode=0o4755, uid=7, gid=8),
        hardlink(b"h", b"f", mode=0o640, uid=9, gid=10, mtime=1_234_567),
    ),
    "hardlink-to-symlink": layer_tar(symlink(b"s", CANARY + b"/whole"), hardlink(b"h", b"s", uid=5)),
    "symlink-then-hardlink": layer_tar(
        directory(b"real"), tar_member(b"real/f", b"x"), symlink(b"d", b"/real"), hardlink(b"h", b"d/f")
    ),
    "hardlink-with-size": layer_tar(
        tar_member(b"f", b"data"), tar_header(b"h", type=b"1", linkname=b"f", size=4), tar_member(b"g", b"after")
    ),
    # A5
    "wh-normal": layer_tar(directory(b"d"), tar_member(b"d/.wh.gone"), tar_member(b".wh.top", uid=3, gid=4)),
    "wh-with-data": layer_tar(tar_member(b".wh.x", b"some data"), tar_member(b"after", b"y")),
    "wh-dir-type": layer_tar(directory(b"d/.wh.x")),
    "wh-symlink-type": layer_tar(symlink(b".wh.x", b"/etc")),
    "wh-missing-parent": layer_tar(tar_member(b"a/b/.wh.x")),
    "wh-then-file": layer_tar(tar_member(b".wh.x"), tar_member(b"x", b"the file wins")),
    "wh-then-dir": layer_tar(tar_member(b".wh.x"), directory(b"x"), tar_member(b"x/f", b"f")),
    "wh-then-symlink": layer_tar(tar_member(b".wh.x"), symlink(b"x", b"y")),
    "wh-wh": layer_tar(tar_member(b".wh..wh.x"), tar_member(b".wh.....")),
    "wh-aufs": layer_tar(directory(b".wh..wh.plnk"), tar_member(b".wh..wh.aufs"), directory(b"d/.wh..wh.orph")),
    # A6
    "opq-root": layer_tar(tar_member(b".wh..wh..opq")),
    "opq-etc": layer_tar(directory(b"etc"), tar_member(b"etc/.wh..wh..opq"), tar_member(b"etc/only", b"x")),
    "opq-after": layer_tar(directory(b"etc"), tar_member(b"etc/only", b"x"), tar_member(b"etc/.wh..wh..opq")),
    "opq-no-dir": layer_tar(tar_member(b"no/dir/.wh..wh..opq")),
    "opq-on-file": layer_tar(tar_member(b"f", b"x"), tar_member(b"f/.wh..wh..opq")),
    # A7
    "root-is-symlink": layer_tar(symlink(b".", CANARY), tar_member(b"f", b"x")),
    "root-is-file": layer_tar(tar_member(b"./", b"data of the root"), tar_member(b"f", b"x")),
    "root-mode-0": layer_tar(directory(b".", mode=0, uid=9, gid=9, mtime=1), tar_member(b"f", b"x")),
    # A8
    "char-0-0": layer_tar(tar_member(b"gone", type=b"3"), tar_member(b"kept", type=b"3", uid=1, mode=0o600)),
    # A10
    "xattr-cap": layer_tar(
        tar_member(
            b"ping",
            b"x",
            uid=5,
            gid=6,
            mode=0o4755,
            pax={b"SCHILY.xattr.security.capability": bytes.fromhex("0100000200200000000000000000000000000000")},
        )
    ),
    "xattr-user": layer_tar(
        tar_member(
            b"f",
            b"x",
            pax={b"SCHILY.xattr.user.a": b"1", b"SCHILY.xattr.user.nul": b"a\0b", b"LIBARCHIVE.xattr.u": b"eA"},
        ),
        pax_member({b"SCHILY.xattr.user.dir": b"2", b"SCHILY.xattr.trusted.own": b"3"}),
        directory(b"d"),
        pax_member({b"SCHILY.xattr.user.empty": b""}),
        tar_member(b"e"),
    ),
    "xattr-user-on-symlink": layer_tar(pax_member({b"SCHILY.xattr.user.a": b"1"}), symlink(b"s", b"nowhere")),
    "xattr-bad-ns": layer_tar(tar_member(b"f", b"x", pax={b"SCHILY.xattr.nonsense.a": b"1"})),
    # A11
    "dev-nodes": layer_tar(
        tar_member(b"null", type=b"3", devmajor=1, devminor=3, mode=0o666),
        tar_member(b"disk", type=b"4", devmajor=8, devminor=1, mode=0o660, gid=6),
        tar_member(b"big", type=b"3", devmajor=0o1234, devminor=0o2345671),
        tar_member(b"pipe", type=b"6", mode=0o622, uid=3),
    ),
    # A12
    "setuid": layer_tar(
        tar_member(b"su", b"x", mode=0o4755),
        tar_member(b"sg", b"x", mode=0o6755, uid=1000, gid=50),
        directory(b"sticky", mode=0o1777),
        directory(b"sgid", mode=0o2775, gid=50),
        tar_member(b"sgid/child", b"x"),
        directory(b"sgid/sub"),
        tar_member(b"secret", b"x", mode=0),
    ),
    # A14
    "pax-50000-records": layer_tar(
        pax_member(b"".join(pax_record(b"c%d" % number, b"v") for number in range(50_000))), tar_member(b"f", b"x")
    ),
    "pax-size": layer_tar(pax_member({b"size": b"4"}), tar_header(b"f", size=0) + padded(b"data"), tar_member(b"g")),
    "pax-twice": layer_tar(pax_member({b"path": b"lost"}), pax_member({b"mtime": b"5.5"}), tar_member(b"f", b"x")),
    "pax-big-ids": layer_tar(tar_member(b"f", pax={b"uid": b"3000000", b"gid": b"3000001"})),
    "pax-global": layer_tar(pax_member({b"comment": b"0123"}, type=b"g", name=b"pax_global_header"), tar_member(b"f")),
    "gnu-long": layer_tar(
        tar_header(b"././@LongLink", type=b"L", size=151, magic=b"ustar  \0") + padded(b"n" * 150 + b"\0"),
        tar_header(b"././@LongLink", type=b"K", size=201, magic=b"ustar  \0") + padded(b"t" * 200 + b"\0"),
        symlink(b"cut", b"cut", magic=b"ustar  \0"),
    ),
    "ustar-prefix": layer_tar(tar_member(b"name", b"x", prefix=b"some/prefix")),
    "v7": layer_tar(
        tar_member(b"old/", type=b"\0", magic=bytes(8)), tar_member(b"old/f", b"x", type=b"\0", magic=bytes(8))
    ),
    # A18
    "name-latin1": layer_tar(tar_member(b"caf\xe9", b"x"), directory(b"\xff\xfe")),
    "name-utf8": layer_tar(tar_member("größe <&>\u2028".encode(), b"x")),
    "name-newline": layer_tar(tar_member(b'a\nb\t"\\\x01', b"x")),
    "name-255": layer_tar(tar_member(b"n" * 255, b"x")),
    "name-deep": layer_tar(tar_member(b"/".join([b"d" * 100] * 30) + b"/f", b"x")),
    "file-trailing-slash": layer_tar(
        tar_member(b"f/", b"x"), tar_member(b"g//", b"x"), tar_member(b"d//", type=b"5", mode=0o755)
    ),
    # A19
    "owner-large": layer_tar(
        tar_member(b"a", b"x", uid=4294967294, gid=4294967294), tar_member(b"b", uid=2**31, gid=2**31)
    ),
    "owner-negative": layer_tar(tar_member(b"a", b"x", uid=-1, gid=-1), directory(b"d", uid=-2, gid=5)),
    "mode-extra-bits": layer_tar(tar_member(b"f", b"x", mode=0o100755), directory(b"d", mode=0o40711)),
    "pax-mtime-ns": layer_tar(
        tar_member(b"f", b"x", pax={b"mtime": b"1600000000.123456789", b"atime": b"1600000009.5"}),
        pax_member({b"mtime": b"1500000000.000000001"}),
        directory(b"d"),
        pax_member({b"mtime": b"1400000000.5"}),
        symlink(b"s", b"f"),
        tar_member(b"d/more-digits", pax={b"mtime": b"1.1234567899"}),
    ),
    "mtime-out-of-range": layer_tar(
        tar_member(b"neg", b"x", mtime=-5),
        pax_member({b"mtime": b"-1.5"}),
        symlink(b"negative-symlink", b"x"),
        tar_member(b"far", pax={b"mtime": b"99999999999"}),
        directory(b"d", mtime=-9),
    ),
    "no-parents": layer_tar(tar_member(b"a/b/c/f", b"x"), directory(b"a/b", mode=0o700, uid=4)),
    # A20
    "no-eof": layer_tar(tar_member(b"f", b"data"), end=b""),
    "no-padding": layer_tar(tar_member(b"f", b"data"), end=b"")[: 512 + 4],
    "one-zero-block": layer_tar(tar_member(b"f", b"data"), end=bytes(512)),
    "garbage-after-eof": layer_tar(tar_member(b"f", b"data")) + b"garbage" * 1000,
    "two-tars": layer_tar(tar_member(b"f", b"data")) + layer_tar(tar_member(b"second", b"tar")),
    "many-zeros-after": layer_tar(tar_member(b"f", b"data"), end=bytes(10240)),
}

# What the engine takes and we take otherwise, or the engine refuses and we take; every one with its reason.
DIFFERS: dict[str, bytes] = {
    # A9: overlayfs' own xattrs would hide or redirect other layers' files
    "xattr-trusted-opaque": layer_tar(pax_member({b"SCHILY.xattr.trusted.overlay.opaque": b"y"}), directory(b"etc")),
    "xattr-trusted-redirect": layer_tar(
        pax_member({b"SCHILY.xattr.trusted.overlay.redirect": b"/root"}), directory(b"etc")
    ),
    "xattr-trusted-metacopy": layer_tar(tar_member(b"f", b"x", pax={b"SCHILY.xattr.trusted.overlay.metacopy": b"y"})),
    "xattr-user-overlay": layer_tar(tar_member(b"f", b"x", pax={b"SCHILY.xattr.user.overlay.opaque": b"y"})),
    # A15: holes instead of zeros, and tar-split keeps the stored form, so that the layer can be exported again
    "sparse-1.0": layer_tar(sparse_1_0(b"f", 4 << 20, PARTS), tar_member(b"after", b"x")),
    "sparse-0.1": layer_tar(sparse_0(b"f", 4 << 20, PARTS, minor=1), tar_member(b"after", b"x")),
    "sparse-0.0": layer_tar(sparse_0(b"f", 4 << 20, PARTS, minor=0), tar_member(b"after", b"x")),
    "sparse-gnu": layer_tar(sparse_gnu(b"f", 4 << 20, PARTS), tar_member(b"after", b"x")),
    "sparse-gnu-many": layer_tar(sparse_gnu(b"f", 4 << 20, MANY_PARTS), tar_member(b"after", b"x")),
    "sparse-empty": layer_tar(sparse_1_0(b"f", 1 << 20, []), tar_member(b"after", b"x")),
}

REFUSED: dict[str, bytes] = {
    # A2
    "symlink-parent-abs": layer_tar(symlink(b"d", CANARY), tar_member(b"d/x", b"x")),
    "symlink-parent-rel": layer_tar(symlink(b"d", UP + CANARY), tar_member(b"d/x", b"x")),
    "symlink-parent-deep": layer_tar(symlink(b"d", CANARY), tar_member(b"d/y/x", b"x")),
    "symlink-chain-out": layer_tar(symlink(b"a", b"b"), symlink(b"b", CANARY), tar_member(b"a/x", b"x")),
    "symlink-loop-parent": layer_tar(symlink(b"a", b"b"), symlink(b"b", b"a"), tar_member(b"a/x", b"x")),
    "symlink-then-dir": layer_tar(symlink(b"d", CANARY), directory(b"d")),
    "symlink-then-file": layer_tar(symlink(b"d", CANARY + b"/whole"), tar_member(b"d", b"overwritten")),
    "symlink-then-whiteout": layer_tar(symlink(b"d", CANARY), tar_member(b"d/.wh.whole")),
    "symlink-then-opaque": layer_tar(symlink(b"d", CANARY), tar_member(b"d/.wh..wh..opq")),
    # A3
    "hardlink-abs": layer_tar(hardlink(b"h", CANARY + b"/whole")),
    "hardlink-dotdot": layer_tar(hardlink(b"h", UP + CANARY + b"/whole")),
    "hardlink-via-symlink": layer_tar(symlink(b"d", CANARY), hardlink(b"h", b"d/whole")),
    "hardlink-self": layer_tar(hardlink(b"h", b"h")),
    "hardlink-later": layer_tar(hardlink(b"h", b"f"), tar_member(b"f", b"x")),
    "hardlink-dir": layer_tar(directory(b"d"), hardlink(b"h", b"d")),
    "pax-link-escape": layer_tar(hardlink(b"h", b"x", pax={b"linkpath": UP + CANARY + b"/whole"})),
    "symlink-then-hardlink-write": layer_tar(
        symlink(b"s", CANARY + b"/whole"), hardlink(b"h", b"s"), tar_member(b"h", b"overwritten")
    ),
    # A4
    "wh-empty": layer_tar(directory(b"d"), tar_member(b"d/.wh.")),
    "wh-dot": layer_tar(directory(b"d"), tar_member(b"d/.wh..")),
    "wh-dotdot": layer_tar(directory(b"d"), tar_member(b"d/.wh...")),
    "wh-root-dot": layer_tar(tar_member(b".wh..")),
    "wh-root-dotdot": layer_tar(tar_member(b".wh...")),
    # A5, A6
    "file-then-wh": layer_tar(tar_member(b"x", b"x"), tar_member(b".wh.x")),
    "wh-twice": layer_tar(tar_member(b".wh.x"), tar_member(b".wh.x")),
    "opq-twice": layer_tar(directory(b"d"), tar_member(b"d/.wh..wh..opq"), tar_member(b"d/.wh..wh..opq")),
    # A10
    "xattr-huge": layer_tar(tar_member(b"f", b"x", pax={b"SCHILY.xattr.user.big": BIG_XATTR})),
    # A13
    "dup-file": layer_tar(tar_member(b"f", b"1"), tar_member(b"f", b"2")),
    "dup-cleaned": layer_tar(tar_member(b"d/f", b"1"), tar_member(b"./d/f", b"2")),
    "dup-dir": layer_tar(directory(b"d"), directory(b"d")),
    "dup-device": layer_tar(tar_member(b"c", type=b"3"), tar_member(b"c", type=b"3")),
    "file-then-dir": layer_tar(tar_member(b"x", b"1"), directory(b"x")),
    "dir-then-file": layer_tar(directory(b"x"), tar_member(b"x/f", b"1"), tar_member(b"x", b"1")),
    "dir-then-symlink": layer_tar(directory(b"x"), symlink(b"x", CANARY), tar_member(b"x/f", b"1")),
    "file-over-symlink": layer_tar(symlink(b"x", CANARY + b"/whole"), tar_member(b"x", b"1")),
    "file-as-parent": layer_tar(tar_member(b"x", b"1"), tar_member(b"x/f", b"1")),
    # A14
    "pax-nul-path": layer_tar(tar_member(b"f", pax={b"path": b"a\0b"})),
    "pax-bad-length": layer_tar(pax_member(b"99 path=x\n"), tar_member(b"f")),
    "pax-zero-length": layer_tar(pax_member(b"0 path=x\n"), tar_member(b"f")),
    "pax-no-equals": layer_tar(pax_member(b"9 pathxx\n"), tar_member(b"f")),
    "pax-no-newline": layer_tar(pax_member(b"8 path=x"), tar_member(b"f")),
    "pax-negative-size": layer_tar(tar_member(b"f", pax={b"size": b"-512"})),
    "pax-size-lie": layer_tar(tar_member(b"f", b"x", pax={b"size": b"99999999999"})),
    "pax-bad-uid": layer_tar(tar_member(b"f", pax={b"uid": b"one"})),
    "pax-huge": tar_header(b"p", type=b"x", size=1 << 30) + bytes(4096),
    "gnu-longlink-1g": tar_header(b"././@LongLink", type=b"L", size=1 << 30, magic=b"ustar  \0") + bytes(4096),
    "type-Z": layer_tar(tar_member(b"f", b"x", type=b"Z")),
    "type-7": layer_tar(tar_member(b"f", b"x", type=b"7")),
    "type-V": layer_tar(tar_member(b"f", type=b"V")),
    "neg-size": layer_tar(tar_header(b"f", size=-512), tar_member(b"g", b"x")),
    "neg-size-pax-header": layer_tar(tar_header(b"f", type=b"x", size=-512), tar_member(b"g", b"x")),
    "huge-size": layer_tar(tar_header(b"f", size=1 << 62)),
    "overflow-size": layer_tar(tar_header(b"f", size=b"\x80" + b"\xff" * 11)),
    "bad-octal": layer_tar(tar_header(b"f", size=b"12a4", checksum=None)),
    "bad-checksum": layer_tar(tar_header(b"f", checksum=b"000001\0 ")),
    "bad-checksum-65521": layer_tar(
        tar_header(b"f", checksum=b"%06o\0 " % (65521 + int(tar_header(b"f")[148:154], 8))),
    ),
    # A15
    "sparse-overlap": layer_tar(sparse_1_0(b"f", 4096, [(100, b"a" * 200), (150, b"b")])),
    "sparse-outside": layer_tar(sparse_1_0(b"f", 4096, [(4090, b"a" * 200)])),
    "sparse-negative": layer_tar(sparse_0(b"f", 100, [(-5, b"abc")], minor=1)),
    # A18
    "name-256": layer_tar(tar_member(b"n" * 256, b"x")),
    "path-5000": layer_tar(tar_member(b"/".join([b"d" * 99] * 50) + b"/f", b"x")),
    # A19
    "pax-mtime-nan": layer_tar(tar_member(b"f", pax={b"mtime": b"nan"})),
    "pax-mtime-1e20": layer_tar(tar_member(b"f", pax={b"mtime": b"1e20"})),
    "symlink-empty": layer_tar(symlink(b"s", b"")),
    # A20
    "truncated-data": layer_tar(tar_member(b"f", b"d" * 5000), end=b"")[:3000],
    "half-header": layer_tar(tar_member(b"f", b"data"), tar_header(b"g")[:300], end=b""),
    "lone-zero-block": layer_tar(tar_member(b"f", b"data"), bytes(512), tar_member(b"g", b"x")),
    "not-a-tar": b"#!/bin/sh\necho hello\n" * 100,
}

# Those of the above that are told to the user.
WARNED = {
    "xattr-user-on-symlink",
    "xattr-bad-ns",
    "xattr-trusted-opaque",
    "xattr-trusted-redirect",
    "xattr-trusted-metacopy",
    "xattr-user-overlay",
}

# OK layers whose tar-split is ours on purpose: the engine notes data for which the layer has no file, or loses the
# bytes around a global header, and can never export the layer again.
OWN_TAR_SPLIT = {"hardlink-with-size", "wh-with-data", "root-is-file", "pax-global"}
