"""Opening archives without root rights: the index of members, links inside it, and what is taken for what."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidock.errors import BadArchive, MinidockError, UnsafePath, UsageError
from minidock.formats.archive import open_archive
from minidock.formats.archivedimage import read_member
from minidock.formats.tarindex import TarMembers, is_tar_header, member_key
from tests import builders
from tests.builders import ImageSpec

LAYER = builders.layer_tar(builders.tar_member(b"a", b"1\n"))
SPEC = ImageSpec([LAYER], tags=["unit:1"])
ARCHIVE = builders.outer_tar(builders.docker_archive_members(SPEC))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    files = len(os.listdir("/proc/self/fd"))
    yield tmp_path
    assert len(os.listdir("/proc/self/fd")) == files, "a descriptor was left open"


def index_of(folder: Path, data: bytes, offset: int = 0) -> TarMembers:
    path = folder / "indexed"
    path.write_bytes(data)
    return TarMembers(os.open(path, os.O_RDONLY), offset=offset, length_bytes=len(data) - offset, what="it")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (b"a", b"a"),
        (b"./a", b"a"),
        (b"a//b/./c/", b"a/b/c"),
        (b"a/../b", b"b"),
        (b".", b""),
        (b"a/b/../../c", b"c"),
        (b"..a/b..", b"..a/b.."),
        (b"\xff", b"\xff"),
    ],
)
def test_names_have_one_key(name: bytes, key: bytes) -> None:
    assert member_key(name) == key


@pytest.mark.parametrize("name", [b"..", b"../a", b"a/../../b", b"/a", b"//a", b"./../a"])
def test_names_that_leave_the_archive_are_refused(name: bytes) -> None:
    with pytest.raises(UnsafePath):
        member_key(name)


@given(st.binary(max_size=60), st.sampled_from([b"", b"x", b"x/y"]))
def test_no_key_leads_out(name: bytes, folder: bytes) -> None:
    try:
        key = member_key(name, folder=folder)
    except UnsafePath:
        return
    assert not key.startswith(b"/")
    assert not {b"", b".", b".."} & set(key.split(b"/")) or key == b""
    assert member_key(key) == key


def test_links_are_followed_inside_only(folder: Path) -> None:
    data = builders.layer_tar(
        builders.tar_member(b"d/real", b"content"),
        builders.symlink(b"e/near", b"../d/real"),
        builders.symlink(b"far", b"e/near"),
        builders.hardlink(b"hard", b"d/real"),
        builders.symlink(b"e/out", b"../../d/real"),
        builders.symlink(b"abs", b"/etc/passwd"),
        builders.symlink(b"loop", b"loop"),
        builders.symlink(b"gone", b"nothing"),
        builders.directory(b"dir"),
        builders.tar_member(b"pipe", type=b"6"),
    )
    members = index_of(folder, data)
    for name in ("d/real", "./d/real", "e/near", "far", "hard"):
        assert read_member(members, name, limit_bytes=100) == b"content"
    for name in ("e/out", "abs", "loop", "/etc/passwd", "../x"):
        with pytest.raises(UnsafePath):
            members.locate(name)
    for name in ("gone", "dir", "pipe", "none", ""):
        assert not members.has_file(name)
        with pytest.raises(BadArchive, match="not in there"):
            members.locate(name)
    members.close()


def test_the_last_of_two_members_with_one_name_wins(folder: Path) -> None:
    data = builders.layer_tar(builders.tar_member(b"a", b"first"), builders.tar_member(b"./a", b"second"))
    members = index_of(folder, data)
    assert read_member(members, "a", limit_bytes=100) == b"second"
    members.close()


def test_a_member_is_read_up_to_its_limit_only(folder: Path) -> None:
    members = index_of(folder, builders.layer_tar(builders.tar_member(b"a", bytes(1000))))
    with pytest.raises(BadArchive, match="more than 999"):
        read_member(members, "a", limit_bytes=999)
    assert len(read_member(members, "a", limit_bytes=1000)) == 1000
    members.close()


def test_sparse_members_are_no_documents(folder: Path) -> None:
    records = {
        b"GNU.sparse.major": b"0",
        b"GNU.sparse.minor": b"1",
        b"GNU.sparse.map": b"0,4",
        b"GNU.sparse.size": b"4",
    }
    members = index_of(folder, builders.layer_tar(builders.tar_member(b"manifest.json", b"[{}]", pax=records)))
    assert not members.has_file("manifest.json")
    members.close()


def test_an_archive_may_begin_anywhere_in_its_file(folder: Path) -> None:
    members = index_of(folder, b"#" * 77 + LAYER, offset=77)
    fd, offset, length = members.locate("a")
    assert os.pread(fd, length, offset) == b"1\n"
    members.close()


def test_layers_are_told_apart_by_their_bytes(folder: Path) -> None:
    for compress, kind in ((bytes, "none"), (gzip.compress, "gzip")):
        archive = builders.docker_archive(folder / "a", SPEC, style="podman", compress=compress)
        with open_archive(str(archive), spool_dir=str(folder)) as opened:
            (blob,) = opened.images[0].layers
            assert (blob.compression, blob.key) == (kind, builders.sha256(LAYER)[7:19])
            assert os.pread(blob.fd, blob.length_bytes, blob.offset) == compress(LAYER) or kind == "gzip"


def test_nothing_is_spooled_from_a_plain_file_and_nothing_is_left_of_a_spool(folder: Path) -> None:
    (folder / "spool").mkdir()
    (folder / "plain").write_bytes(ARCHIVE)
    with open_archive(str(folder / "plain"), spool_dir="/nonexistent") as opened:
        assert opened.kind == "docker-save"
    (folder / "packed").write_bytes(gzip.compress(ARCHIVE))
    with open_archive(str(folder / "packed"), spool_dir=str(folder / "spool")) as opened:
        assert opened.images[0].config.image_id == builders.sha256(SPEC.config)
        assert os.listdir(folder / "spool") == []
    with pytest.raises(MinidockError, match="spool|No such file"):
        open_archive(str(folder / "packed"), spool_dir="/nonexistent")


def test_a_spool_that_does_not_fit_is_one_clear_error(folder: Path) -> None:
    (folder / "packed").write_bytes(gzip.compress(ARCHIVE))
    child = os.fork()
    if child == 0:
        import resource
        import signal

        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            open_archive(str(folder / "packed"), spool_dir=str(folder))
        except MinidockError as error:
            status = 0 if "File too large" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_terminal_is_not_read(folder: Path) -> None:
    master, slave = os.openpty()
    try:
        with pytest.raises(UsageError, match="terminal"):
            open_archive(slave, spool_dir=str(folder))
    finally:
        os.close(master)
        os.close(slave)


def test_tar_headers_are_told_by_their_sum() -> None:
    header = builders.tar_header(b"\xe9" * 20)
    assert is_tar_header(header)
    assert not is_tar_header(header[:511])
    assert not is_tar_header(bytes(512))
    assert not is_tar_header(header[:5] + b"x" + header[6:])
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + b" " * 8 + header[156:])
    assert is_tar_header(header[:148] + b"%06o\0 " % signed + header[156:])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_archive_is_opened_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Cut, overwritten and shuffled blocks: an error of ours or an archive, never another exception or a hang."""
    folder = tmp_path_factory.mktemp("damaged")
    damaged = bytearray(ARCHIVE[: data.draw(st.integers(0, len(ARCHIVE)))])
    for position, junk in data.draw(st.lists(st.tuples(st.integers(0, 20), st.binary(max_size=600)), max_size=3)):
        damaged[position * 512 : position * 512 + len(junk)] = junk
    (folder / "a").write_bytes(damaged)
    try:
        with open_archive(str(folder / "a"), spool_dir=str(folder)) as opened:
            assert opened.kind
    except MinidockError as error:
        assert str(error).isprintable()
