"""An upper directory becomes a layer: digest, tar-split and directory, checked against the engines' vectors."""

from __future__ import annotations

import hashlib
import io
import os
import random
import resource
import socket
import stat
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from minidock.errors import StoreError
from minidock.formats.tarsplit import reassemble
from minidock.store.changes import WrittenLayer, write_layer
from tests import builders

SECOND = 1_000_000_000
TIME_NS = 1_600_000_000 * SECOND + 999_999_999


class Upper:
    """An upper directory under construction."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.root = os.fsencode(path)

    def at(self, name: bytes) -> bytes:
        return self.root + b"/" + name

    def file(self, name: bytes, content: bytes = b"x\n", mode: int = 0o644) -> bytes:
        with open(self.at(name), "wb") as file:
            file.write(content)
        os.chmod(self.at(name), mode)
        return self.at(name)

    def directory(self, name: bytes, mode: int = 0o755) -> bytes:
        os.mkdir(self.at(name))
        os.chmod(self.at(name), mode)
        return self.at(name)

    def whiteout(self, name: bytes) -> None:
        os.mknod(self.at(name), stat.S_IFCHR, 0)

    def freeze_times(self, time_ns: int = TIME_NS) -> None:
        for where, directories, files in os.walk(self.root):
            for name in directories + files:
                os.utime(os.path.join(where, name), ns=(time_ns, time_ns), follow_symlinks=False)


class Written:
    """A layer made from an upper directory, with the means to give its tar back."""

    def __init__(self, upper: Upper, base: Path, dialect: str = "c") -> None:
        self.diff = base
        self.diff.mkdir()
        self.split = base.with_suffix(".split")
        self.layer = self._write(upper, dialect)

    def _write(self, upper: Upper, dialect: str) -> WrittenLayer:
        upper_fd = os.open(upper.root, os.O_RDONLY)
        diff_fd = os.open(self.diff, os.O_RDONLY)
        split_fd = os.open(self.split, os.O_RDWR | os.O_CREAT)
        try:
            return write_layer(upper_fd, diff_fd, split_fd, dialect=dialect)
        finally:
            for handle in (upper_fd, diff_fd, split_fd):
                os.close(handle)

    def tar(self) -> bytes:
        """The tar made again from tar-split and the layer's directory."""

        def open_member(name: bytes) -> int:
            return os.open(os.path.join(os.fsencode(self.diff), name), os.O_RDONLY)

        split_fd = os.open(self.split, os.O_RDONLY)
        try:
            return b"".join(reassemble(split_fd, open_member))
        finally:
            os.close(split_fd)


def one_file(upper: Upper) -> None:
    upper.file(b"a")


def shared_whiteouts(upper: Upper) -> None:
    upper.directory(b"etc")
    upper.whiteout(b"etc/gone")
    os.link(upper.at(b"etc/gone"), upper.at(b"etc/gone2"))


def opaque(upper: Upper) -> None:
    os.setxattr(upper.directory(b"v", 0o711), "trusted.overlay.opaque", b"y")
    upper.file(b"v/n")


def long_names(upper: Upper) -> None:
    upper.file(b"n" * 120)
    upper.directory(b"p" * 80)
    upper.directory(b"p" * 80 + b"/" + b"q" * 40)
    upper.file("zé".encode())


def capabilities(upper: Upper) -> None:
    path = upper.file(b"cap", b"bin", 0o755)
    os.setxattr(path, "security.capability", struct.pack("<6I", 0x03000001, 0x400, 0, 0, 0, 1000))
    os.link(path, upper.at(b"cap2"))


def order_and_kinds(upper: Upper) -> None:
    upper.directory(b"o", 0o1777)
    upper.file(b"o/x")
    upper.file(b"o.txt")
    upper.file(b"o-y")
    os.symlink(b"o/x", upper.at(b"s"))
    os.mkfifo(upper.at(b"p"))
    os.chmod(upper.at(b"p"), 0o600)
    os.chown(upper.file(b"big"), 3_000_000, 12345)


VECTORS = [
    (one_file, "0e5ebcd343f17035", "6ddc2373a8cb0d67", "22c5e2a0a71d15ef"),
    (shared_whiteouts, "941d7e2c391246df", "10c5b2bed824be9c", "410dad565e3b39f0"),
    (opaque, "24a489d2cd16e024", "3a501d7fcd2b3397", "c4ad9934c9210fd4"),
    (long_names, "1a686fc7dd2eaf1e", "e2018acfd5c889eb", "cc4d90c37dd79696"),
    (capabilities, "7bdcdaf42390ef5e", "a1753b72cf147a1b", "982fc483d6b84e81"),
    (order_and_kinds, "f8f672c042c82910", "ac440b205b7d1215", "f9afa688b3b374c6"),
]


@pytest.mark.parametrize(("build", "a", "b", "c"), VECTORS)
def test_diff_ids_of_real_engines(build: Callable[[Upper], None], a: str, b: str, c: str, scratch: Path) -> None:
    upper = Upper(scratch / "upper")
    build(upper)
    upper.freeze_times()
    for dialect, digits in (("a", a), ("b", b), ("c", c)):
        written = Written(upper, scratch / dialect, dialect)
        assert written.layer.diff_id.hex.startswith(digits)
        assert builders.sha256(written.tar()) == written.layer.diff_id


def test_an_empty_upper_is_the_empty_tar(scratch: Path) -> None:
    upper = Upper(scratch / "upper")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(upper.at(b"socket"))
        written = Written(upper, scratch / "layer")
    assert written.layer.diff_id == "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
    assert (written.layer.size_bytes, written.layer.tar_bytes, written.layer.entries) == (0, 1024, 0)
    assert os.listdir(written.diff) == []


def test_the_layer_directory_is_what_unpacking_the_tar_would_leave(scratch: Path) -> None:
    upper = Upper(scratch / "upper")
    top = upper.directory(b"d", 0o2750)
    os.setxattr(top, "trusted.overlay.opaque", b"y")
    os.setxattr(top, "trusted.overlay.origin", b"\0\xfb")
    os.setxattr(top, "trusted.overlay.impure", b"y")
    os.setxattr(upper.root, "trusted.overlay.uuid", bytes(16))
    os.chown(top, 7, 8)
    os.chmod(top, 0o2750)
    suid = upper.file(b"d/suid", b"run", 0o755)
    os.chown(suid, 1000, 1001)
    os.chmod(suid, 0o6711)
    os.setxattr(suid, "security.capability", struct.pack("<5I", 0x02000001, 0x400, 0, 0, 0))
    os.setxattr(suid, "trusted.overlay.origin", b"\0\xfb")
    os.link(suid, upper.at(b"d/suid-too"))
    upper.whiteout(b"d/gone")
    os.link(upper.at(b"d/gone"), upper.at(b"d/gone-too"))
    os.mknod(upper.at(b"zero"), stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.symlink(b"/nowhere", upper.at(b"link"))
    upper.freeze_times()
    os.utime(upper.file(b"before"), ns=(-SECOND // 2, -SECOND // 2))
    written = Written(upper, scratch / "layer")

    def status(name: str) -> os.stat_result:
        return os.lstat(written.diff / name)

    assert stat.S_IMODE(status("d").st_mode) == 0o2750 and (status("d").st_uid, status("d").st_gid) == (7, 8)
    assert os.listxattr(written.diff / "d") == ["trusted.overlay.opaque"]
    assert os.listxattr(written.diff / "d/suid") == ["security.capability"]
    assert os.listxattr(written.diff) == []
    assert stat.S_IMODE(status("d/suid").st_mode) == 0o6711 and status("d/suid").st_uid == 1000
    assert status("d/suid").st_ino == status("d/suid-too").st_ino and status("d/suid").st_nlink == 2
    assert status("d/gone").st_ino != status("d/gone-too").st_ino
    for name in ("d/gone", "d/gone-too"):
        assert stat.S_ISCHR(status(name).st_mode) and status(name).st_rdev == 0
    assert status("zero").st_rdev == os.makedev(1, 5)
    assert os.readlink(written.diff / "link") == "/nowhere"
    for name in ("d", "d/suid", "zero", "link"):
        assert status(name).st_mtime_ns == TIME_NS // SECOND * SECOND
    assert status("before").st_mtime_ns == 0
    # Each inode once, and a symlink by its target's length.
    assert written.layer.size_bytes == len(b"run") + len(b"x\n") + len(b"/nowhere")


@pytest.mark.parametrize("size", [1 << 20, (5 << 20) + 3, 100_000])
def test_holes_stay_holes_and_hash_as_zeros(size: int, scratch: Path) -> None:
    upper = Upper(scratch / "upper")
    path = upper.file(b"sparse", b"")
    with open(path, "r+b") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(b"middle")
    written = Written(upper, scratch / "layer")
    copy = written.diff / "sparse"
    assert copy.read_bytes() == Path(os.fsdecode(path)).read_bytes()
    assert os.stat(copy).st_blocks * 512 <= 8192
    assert builders.sha256(written.tar()) == written.layer.diff_id


def test_a_hole_at_the_end_and_a_file_of_nothing_but_hole(scratch: Path) -> None:
    upper = Upper(scratch / "upper")
    for name, head in ((b"tail", b"head"), (b"void", b"")):
        with open(upper.file(name, head), "r+b") as file:
            file.truncate(3 << 20)
    written = Written(upper, scratch / "layer")
    assert builders.sha256(written.tar()) == written.layer.diff_id
    assert os.stat(written.diff / "void").st_blocks == 0


def test_large_files_go_through_the_thread_in_order(scratch: Path) -> None:
    upper = Upper(scratch / "upper")
    source = random.Random(7)
    for number in range(4):
        upper.file(b"big%d" % number, source.randbytes((1 << 20) * (number + 1) + number * 511))
        upper.file(b"big%d.small" % number, source.randbytes(number * 700))
    written = Written(upper, scratch / "layer")
    assert builders.sha256(written.tar()) == written.layer.diff_id


def test_more_levels_than_descriptors(scratch: Path) -> None:
    upper = Upper(scratch / "upper")
    deep = b"/".join([b"d"] * 500)
    os.makedirs(upper.at(deep))
    upper.file(deep + b"/leaf")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    try:
        written = Written(upper, scratch / "layer")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (written.diff / os.fsdecode(deep) / "leaf").read_bytes() == b"x\n"
    assert builders.sha256(written.tar()) == written.layer.diff_id


@pytest.mark.parametrize("xattr", ["trusted.overlay.redirect", "trusted.overlay.metacopy"])
def test_an_upper_that_points_into_lower_layers_is_refused(xattr: str, scratch: Path) -> None:
    upper = Upper(scratch / "upper")
    os.setxattr(upper.directory(b"moved"), xattr, b"/was/here")
    with pytest.raises(StoreError, match="redirect_dir or metacopy"):
        Written(upper, scratch / "layer")


def test_a_name_that_a_layer_would_read_as_a_deletion_is_refused(scratch: Path) -> None:
    upper = Upper(scratch / "upper")
    upper.file(b".wh.passwd")
    with pytest.raises(StoreError, match="deletion"):
        Written(upper, scratch / "layer")


def test_foreign_xattrs_and_overlay_marks_are_not_exported(scratch: Path) -> None:
    upper = Upper(scratch / "upper")
    path = upper.file(b"f")
    upper.freeze_times()
    plain = Written(upper, scratch / "plain").layer.diff_id
    for name in ("trusted.overlay.origin", "trusted.overlay.upper", "user.note", "user.overlay.opaque"):
        os.setxattr(path, name, b"y")
    marked = Written(upper, scratch / "marked")
    assert marked.layer.diff_id == plain
    assert os.listxattr(marked.diff / "f") == []


def random_upper(upper: Upper, source: random.Random) -> None:
    """Anything a container may leave behind, with names that sort and escape badly."""
    letters = [b"a", b"b-", b"b.", b"b", b"z" * 90, "ü".encode(), b"\xff\xfe", b" ", b"new\nline", b"A", b"~"]
    directories = [b""]
    files: list[bytes] = []
    for _ in range(source.randrange(1, 24)):
        where = source.choice(directories)
        name = b"".join(source.choices(letters, k=source.randrange(1, 4)))[:255]
        path = where + b"/" + name if where else name
        if os.path.lexists(upper.at(path)):
            continue
        kind = source.randrange(9)
        if kind <= 1:
            upper.directory(path, source.choice((0o755, 0o700, 0o1777, 0o2775)))
            if source.random() < 0.3:
                os.setxattr(upper.at(path), "trusted.overlay.opaque", b"y")
            directories.append(path)
        elif kind <= 4:
            size = source.choice((0, 1, 511, 512, 513, 4096, 70_000, (1 << 20) + 1))
            upper.file(path, source.randbytes(size), source.choice((0o644, 0o4755, 0o000, 0o600)))
            if source.random() < 0.2:
                capability = struct.pack("<5I", 0x02000001, source.randrange(1 << 10), 0, 0, 0)
                os.setxattr(upper.at(path), "security.capability", capability)
            files.append(path)
        elif kind == 5:
            os.symlink(b"t" * source.choice((1, 99, 100, 101, 300)), upper.at(path))
        elif kind == 6:
            upper.whiteout(path)
            files.append(path)
        elif kind == 7:
            kinds = (stat.S_IFIFO | 0o600, stat.S_IFCHR | 0o660, stat.S_IFBLK | 0o660)
            os.mknod(upper.at(path), source.choice(kinds), os.makedev(source.randrange(1, 300), source.randrange(300)))
        elif files:
            os.link(upper.at(source.choice(files)), upper.at(path))
        if os.path.lexists(upper.at(path)) and source.random() < 0.3:
            mode = stat.S_IMODE(os.lstat(upper.at(path)).st_mode)
            capable = "security.capability" in os.listxattr(upper.at(path), follow_symlinks=False)
            if not capable:
                os.lchown(upper.at(path), source.choice((0, 5, 3_000_000)), source.choice((0, 5, 4_000_000)))
                if not os.path.islink(upper.at(path)):
                    os.chmod(upper.at(path), mode)
        if os.path.lexists(upper.at(path)):
            time_ns = source.choice((0, TIME_NS, -5 * SECOND - 1, 9_000_000_000 * SECOND))
            os.utime(upper.at(path), ns=(time_ns, time_ns), follow_symlinks=False)


def expected_members(upper: Upper) -> dict[bytes, tuple[str, bytes]]:
    """What Python's own tar reader should find: name -> kind, and content, link target or nothing."""
    members: dict[bytes, tuple[str, bytes]] = {}
    first: dict[int, bytes] = {}

    def visit(prefix: bytes) -> None:
        for name in sorted(os.listdir(upper.at(prefix))):
            path = prefix + name
            status = os.lstat(upper.at(path))
            linked = first.setdefault(status.st_ino, path) if status.st_nlink > 1 else path
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                members[prefix + b".wh." + name] = ("file", b"")
            elif stat.S_ISDIR(status.st_mode):
                members[path] = ("directory", b"")
                if "trusted.overlay.opaque" in os.listxattr(upper.at(path)):
                    members[path + b"/.wh..wh..opq"] = ("file", b"")
                visit(path + b"/")
            elif linked != path:
                members[path] = ("link", linked)
            elif stat.S_ISREG(status.st_mode):
                members[path] = ("file", Path(os.fsdecode(upper.at(path))).read_bytes())
            elif stat.S_ISLNK(status.st_mode):
                members[path] = ("symlink", os.readlink(upper.at(path)))
            else:
                members[path] = ("other", b"")

    visit(b"")
    return members


def found_members(tar: bytes) -> dict[bytes, tuple[str, bytes]]:
    members: dict[bytes, tuple[str, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape") as archive:
        for member in archive:
            name = os.fsencode(member.name)
            if member.isreg():
                content = archive.extractfile(member)
                members[name] = ("file", content.read() if content else b"")
            elif member.islnk() or member.issym():
                members[name] = ("link" if member.islnk() else "symlink", os.fsencode(member.linkname))
            else:
                members[name] = ("directory" if member.isdir() else "other", b"")
    return members


def test_random_uppers_come_back_to_the_bit_and_read_equal(scratch: Path) -> None:
    for seed in range(200):
        base = scratch / str(seed)
        base.mkdir()
        upper = Upper(base / "upper")
        random_upper(upper, random.Random(seed))
        written = Written(upper, base / "layer", "abc"[seed % 3])
        tar = written.tar()
        assert "sha256:" + hashlib.sha256(tar).hexdigest() == written.layer.diff_id, seed
        assert len(tar) == written.layer.tar_bytes, seed
        assert found_members(tar) == expected_members(upper), seed
