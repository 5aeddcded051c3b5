"""Tar headers byte for byte as the engine's Go code writes them."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidock.formats import tarwriter
from minidock.formats.tarwriter import LayerHeaders, encode_header, padding, split_ustar_name
from tests import builders

SECOND = 1_000_000_000
# The vectors' time ends in .999999999: it must be cut, not rounded.
TIME_NS = 1_600_000_000 * SECOND + 999_999_999


def status_of(
    mode: int, *, size: int = 0, uid: int = 0, gid: int = 0, rdev: int = 0, mtime_ns: int = TIME_NS
) -> os.stat_result:
    """What lstat(2) would say of such a file."""
    basic = (mode, 1, 1, 1, uid, gid, size, 0, mtime_ns // SECOND, 0)
    return os.stat_result(basic, {"st_mtime_ns": mtime_ns, "st_rdev": rdev})


class Layer:
    """Collects a tar the way a commit does."""

    def __init__(self, dialect: str) -> None:
        self.headers = LayerHeaders(
            dialect, lambda uid, gid: (b"root" if uid == 0 else b"", b"root" if gid == 0 else b"")
        )
        self.out = bytearray()

    def add(self, path: bytes, mode: int, content: bytes = b"", **extra: object) -> None:
        keys = {key: extra.pop(key) for key in ("target", "first_link", "capability") if key in extra}
        status = status_of(mode, size=len(content), **extra)  # type: ignore[arg-type]
        _, header = self.headers.entry(path, status, **keys)  # type: ignore[arg-type]
        self.out += header + content + padding(len(content))

    def file(self, path: bytes, **extra: object) -> None:
        self.add(path, stat.S_IFREG | 0o644, b"x\n", **extra)

    def directory(self, path: bytes, mode: int = 0o755) -> None:
        self.add(path, stat.S_IFDIR | mode)

    def digest(self) -> str:
        return hashlib.sha256(bytes(self.out) + tarwriter.END_OF_ARCHIVE).hexdigest()


def one_file(layer: Layer) -> None:
    layer.file(b"a")


def shared_whiteouts(layer: Layer) -> None:
    layer.directory(b"etc")
    layer.add(b"etc/gone", stat.S_IFCHR)
    layer.add(b"etc/gone2", stat.S_IFCHR, first_link=b"etc/gone")


def opaque(layer: Layer) -> None:
    layer.directory(b"v", 0o711)
    layer.out += layer.headers.opaque_marker(b"v", status_of(stat.S_IFDIR | 0o711))[1]
    layer.file(b"v/n")


def long_names(layer: Layer) -> None:
    layer.file(b"n" * 120)
    layer.directory(b"p" * 80)
    layer.directory(b"p" * 80 + b"/" + b"q" * 40)
    layer.file("zé".encode())


def capabilities(layer: Layer) -> None:
    capability = struct.pack("<6I", 0x03000001, 0x400, 0, 0, 0, 1000)
    layer.add(b"cap", stat.S_IFREG | 0o755, b"bin", capability=capability)
    # A link's own entry has no content.
    _, header = layer.headers.entry(
        b"cap2", status_of(stat.S_IFREG | 0o755, size=3), first_link=b"cap", capability=capability
    )
    layer.out += header


def order_and_kinds(layer: Layer) -> None:
    layer.file(b"big", uid=3_000_000, gid=12345)
    layer.directory(b"o", 0o1777)
    layer.file(b"o/x")
    layer.file(b"o-y")
    layer.file(b"o.txt")
    layer.add(b"p", stat.S_IFIFO | 0o600)
    layer.add(b"s", stat.S_IFLNK | 0o777, target=b"o/x")


VECTORS = [
    (one_file, "a", "0e5ebcd343f17035bfd59b4783cce6eaf3fd0e1eeb6a3d0e6ceaf58fb2208ba0"),
    (one_file, "b", "6ddc2373a8cb0d674d31b70448c35a8b04f87f35859412ecf31a52d8b15725f7"),
    (one_file, "c", "22c5e2a0a71d15efe8151ff63285ec19502a64383c5ba5e45703a2abaf2d6444"),
    (shared_whiteouts, "a", "941d7e2c391246dff0e891df347db2578a801bb3120cb5a1f2c118778f0b8b34"),
    (shared_whiteouts, "b", "10c5b2bed824be9cb5c7717fc59543c4871a120a80ba83cbe5d920eceb097577"),
    (shared_whiteouts, "c", "410dad565e3b39f0dd760e12d1b655853c8e9b86da11c4f37a669ed70712d9e1"),
    (opaque, "a", "24a489d2cd16e024e4afaaca3dbe29461094fd8db316428833803c98616469d2"),
    (opaque, "b", "3a501d7fcd2b33979af76d0238e108f8c8829aa7bd3d3e94e922cd1237091d30"),
    (opaque, "c", "c4ad9934c9210fd447947459a2a593e65f700435155de52c1e37f05da5d84394"),
    (long_names, "a", "1a686fc7dd2eaf1e852ab2bee637b9f5ac98fcd7e9743c1f88093d093d29f86f"),
    (long_names, "b", "e2018acfd5c889ebf36ec55a6371e8f6b713ec4bf1b267411b549d184656deed"),
    (long_names, "c", "cc4d90c37dd79696135213d4b5bb56cdc6f925899198f50edb4040fa2263504c"),
    (capabilities, "a", "7bdcdaf42390ef5e07fec29c638fde1622e33da6601d01b94001273dc453629c"),
    (capabilities, "b", "a1753b72cf147a1b824585f2f7666302a4b203afd53bef94b8a7fa4dc7aad2dc"),
    (capabilities, "c", "982fc483d6b84e81d84e1dd225eac43d4a0465ed975df0fd2f4d145316f4ff3b"),
    (order_and_kinds, "a", "f8f672c042c829108a1bdac3615115e1ed3a73cd29cec37100b0cdb1006fa824"),
    (order_and_kinds, "b", "ac440b205b7d12157ba0df710ce2e8c6e87b46fdaf6a6d3db22681e3cd22278d"),
    (order_and_kinds, "c", "f9afa688b3b374c65d1abd2c4b92bdf1bb7223c0bf87586d463cd60ad1cb3f49"),
]


@pytest.mark.parametrize(("build", "dialect", "digest"), VECTORS)
def test_digest_vectors_of_real_engines(build: Callable[[Layer], None], dialect: str, digest: str) -> None:
    layer = Layer(dialect)
    build(layer)
    assert layer.digest() == digest


def read_back(header: bytes) -> tarfile.TarInfo:
    """The one entry as Python's own reader understands it."""
    with tarfile.open(fileobj=io.BytesIO(header + builders.END), errors="surrogateescape") as archive:
        members = archive.getmembers()
    assert len(members) == 1
    return members[0]


@pytest.mark.parametrize(
    ("name", "linkname", "ids", "mtime_s", "is_plain"),
    [
        (b"x" * 100, b"", (0, 0), 0, True),
        (b"x" * 101, b"", (0, 0), 0, False),
        (b"d" * 155 + b"/" + b"f" * 100, b"", (0, 0), 0, True),
        (b"d" * 156 + b"/" + b"f" * 99, b"", (0, 0), 0, False),
        (b"d" * 60 + b"/" + b"f" * 101, b"", (0, 0), 0, False),
        ("naïve/ünï".encode(), b"", (0, 0), 0, False),
        (b"latin-\xe9", b"", (0, 0), 0, False),
        (b"new\nline", b"", (0, 0), 0, True),
        (b"l", b"t" * 100, (0, 0), 0, True),
        (b"l", b"t" * 101, (0, 0), 0, False),
        (b"big", b"", (0o7777777, 0o7777777), 0o77777777777, True),
        (b"bigger", b"", (0o10000000, 4294967294), 0o100000000000, False),
        (b"old", b"", (0, 0), -1, False),
    ],
)
def test_plain_where_possible_and_read_back_equal(
    name: bytes, linkname: bytes, ids: tuple[int, int], mtime_s: int, is_plain: bool
) -> None:
    kind = tarwriter.SYMLINK if linkname else tarwriter.REGULAR
    header = encode_header(name, kind, mode=0o4755, uid=ids[0], gid=ids[1], mtime_s=mtime_s, linkname=linkname)
    assert (len(header) == 512) == is_plain
    member = read_back(header)
    assert os.fsencode(member.name) == name
    assert os.fsencode(member.linkname) == linkname
    assert (member.uid, member.gid, member.mtime, member.mode) == (*ids, mtime_s, 0o4755)


def test_pax_header_of_go_has_its_own_name_and_no_device_fields() -> None:
    header = encode_header(b"a/foo/" + b"\xc3\xa9/", tarwriter.DIRECTORY, mode=0o755)
    assert header[:100].rstrip(b"\0") == b"a/foo//PaxHeaders.0"
    assert header[156:157] == b"x" and header[329:345] == bytes(16)
    assert header[512:1024].rstrip(b"\0") == b"18 path=a/foo/\xc3\xa9/\n"
    assert header[1024:1124].rstrip(b"\0") == b"a/foo//"
    assert header[1024 + 329 : 1024 + 345] == b"0000000\x000000000\0"


def test_pax_name_is_cut_at_100_bytes_and_loses_trailing_slashes() -> None:
    header = encode_header(b"d" * 99 + b"/" + b"f" * 101, tarwriter.REGULAR)
    assert header[:100] == b"d" * 99 + b"\0"


def test_a_cut_name_never_ends_in_a_slash() -> None:
    # The split fails, since the suffix is too long, so the field holds the first hundred bytes.
    header = encode_header(b"d" * 99 + b"/" + b"f" * 101, tarwriter.REGULAR)[-512:]
    assert header[:100] == b"d" * 99 + b"\0"
    header = encode_header(b"l", tarwriter.SYMLINK, linkname=b"t" * 97 + b"///" + b"u" * 10)[-512:]
    assert header[157:257] == b"t" * 97 + b"\0//"


def test_a_splittable_name_is_repeated_in_pax_when_xattrs_force_it() -> None:
    name = b"d" * 60 + b"/" + b"f" * 60
    header = encode_header(name, tarwriter.REGULAR, xattrs={b"security.capability": b"\1\0\0\2"})
    records = header[512:1024]
    assert records.index(b"SCHILY.xattr.security.capability=") < records.index(b"path=" + name)
    assert header[-512 + 345 :][:155] == bytes(155)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        (b"s" * 100, None),
        (b"/" + b"s" * 100, None),
        (b"p" * 50 + b"/" + b"s" * 60, (b"p" * 50, b"s" * 60)),
        (b"p" * 50 + b"/" + b"s" * 60 + b"/", (b"p" * 50, b"s" * 60 + b"/")),
        (b"p" * 100 + b"/", None),
        (b"p" * 20 + b"/" + b"q" * 100 + b"/", None),
        (b"p" * 150 + b"/qqqq/" + b"s" * 90, (b"p" * 150 + b"/qqqq", b"s" * 90)),
        (b"p" * 150 + b"/qqqqq/" + b"s" * 90, (b"p" * 150, b"qqqqq/" + b"s" * 90)),
    ],
)
def test_split_rule(name: bytes, split: tuple[bytes, bytes] | None) -> None:
    assert split_ustar_name(name) == split


def test_record_length_counts_its_own_digits() -> None:
    for size in (*range(1, 120), *range(980, 1010), *range(9980, 10010)):
        record = tarwriter.pax_record(b"k", b"v" * size)
        assert int(record.split(b" ", 1)[0]) == len(record)


def test_a_link_to_a_device_keeps_the_device_numbers() -> None:
    status = status_of(stat.S_IFCHR | 0o666, rdev=os.makedev(259, 300))
    _, header = LayerHeaders("c").entry(b"second", status, first_link=b"first")
    assert header[156:157] == b"1" and header[157:162] == b"first"
    assert header[329:345] == b"0000403\x000000454\0"


def test_a_capability_of_a_user_namespace_loses_its_root_uid() -> None:
    third = struct.pack("<6I", 0x03000001, 0x400, 0, 0, 0, 1000)
    assert tarwriter.portable_capability(third) == struct.pack("<5I", 0x02000001, 0x400, 0, 0, 0)
    second = struct.pack("<5I", 0x02000001, 0x400, 0, 0, 0)
    assert tarwriter.portable_capability(second) == second


def test_an_unknown_dialect_is_refused() -> None:
    for dialect in ("", "ab", "d"):
        with pytest.raises(ValueError, match="no such dialect"):
            LayerHeaders(dialect)


IDS = st.one_of(st.integers(0, 0o7777777), st.integers(0, 2**32 - 2), st.sampled_from([0, 0o7777777, 0o10000000]))
TIMES = st.one_of(st.integers(0, 0o77777777777), st.sampled_from([-1, 0, 0o77777777777, 0o100000000000]))


@given(
    st.binary(min_size=1, max_size=120).map(lambda name: name.replace(b"\0", b"x")),
    st.sampled_from([tarwriter.REGULAR, tarwriter.DIRECTORY, tarwriter.FIFO]),
    st.integers(0, 0o177777),
    IDS,
    IDS,
    st.one_of(st.integers(0, 1 << 40), st.sampled_from([0o77777777777, 0o100000000000])),
    TIMES,
)
def test_the_short_way_gives_what_the_long_way_gives(
    name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime_s: int
) -> None:
    short = encode_header(name, kind, mode=mode, uid=uid, gid=gid, size_bytes=size, mtime_s=mtime_s)
    long = tarwriter.encode_any_header(name, kind, mode, uid, gid, size, mtime_s, b"", b"", b"", 0, 0, {})
    assert short == long
    assert len(short) % 512 == 0
    block = short[-512:]
    assert int(block[148:154], 8) == sum(block[:148]) + 8 * 32 + sum(block[156:])
