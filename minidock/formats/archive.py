"""Image archives of every kind: what is it, which images does it hold, where in it are their bytes?

    a directory                     OCI layout, or podman's docker-dir
    a plain tar in a file           its members are read in place
    compressed, or from a pipe      spooled once, as a plain tar, to a file without a name

Inside: `manifest.json` with a list (docker save, podman save), `oci-layout` (OCI), `manifest.json` with an object
(docker-dir), and anything else is the tree of a root, as `docker export` writes it.
"""

from __future__ import annotations

import errno
import os
import stat

from minidock.constants import MAX_MANIFEST_BYTES
from minidock.errors import BadArchive, BadConfig, BadManifest, NotFound, SyscallError, UsageError
from minidock.formats.archivedimage import ArchivedImage, LayerBlob, read_member
from minidock.formats.compression import DecompressedFile, identify, open_decompressed, sniff
from minidock.formats.dockersave import read_saved_images
from minidock.formats.layoutdir import DirectoryMembers
from minidock.formats.manifest import ImageManifest, parse_manifest_json
from minidock.formats.oci import LayoutReader
from minidock.formats.platform import Platform, host_platform, parse_platform
from minidock.formats.reference import parse_tag
from minidock.formats.tarheader import BLOCK
from minidock.formats.tarindex import MAX_MEMBERS, TarMembers, is_tar_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from minidock.trace import Progress

__all__ = ["Archive", "ArchivedImage", "LayerBlob", "open_archive", "open_rootfs"]

_HEAD_BYTES = 4096
_COPY_BYTES = 1 << 20
_REPORT_BYTES = 16 << 20
# What spooling leaves free, or a fiftieth of a smaller disk.
_ROOM_BYTES = 256 << 20


class Archive:
    """An open archive; leaving its `with` closes all files that the blobs point into.

    Shape: kind "docker-save", "oci", "docker-dir" or "rootfs"; rootfs is set only for the last, images is then empty
    Units: spooled_bytes: how much was copied because it could not be read in place
    """

    def __init__(self, members: TarMembers | DirectoryMembers, what: str) -> None:
        self.members = members
        self.what = what
        self.kind = "rootfs"
        self.images: list[ArchivedImage] = []
        self.rootfs: LayerBlob | None = None
        self.spooled_bytes = 0

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.members.close()


def open_archive(
    source: str | int,
    *,
    spool_dir: str,
    platform: str | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Archive:
    """Open an image archive and check everything that can be checked without reading the layers.

    Shape:   source: a path, or "-" or a descriptor for a stream (which stays the caller's); spool_dir: a directory
             on a disk for what cannot be read in place; platform: `os/arch[/variant]`, None for this machine's;
             name: a reference instead of those in the archive
    Returns: an Archive; the caller owns it and must leave it
    Raises:  FormatError, InvalidReference, UsageError, NotFound, SyscallError
    """
    wanted = parse_platform(platform) if platform else None
    reference = parse_tag(name) if name else None
    archive = _open(source, spool_dir, progress)
    what = archive.what
    try:
        _read_images(archive, wanted)
        if reference is not None and len(archive.images) > 1:
            raise UsageError(
                f"{what} holds {len(archive.images)} images: one name cannot be given to all of them",
                hint="leave --name out",
            )
        for image in archive.images:
            _check_platform(image, what, wanted)
            if reference is not None:
                image.references = [reference]
    except BaseException:
        archive.members.close()
        raise
    return archive


def open_rootfs(source: str | int, *, spool_dir: str, progress: Progress | None = None) -> Archive:
    """Open any tar as the tree of a root, whatever is in it: `rootfs` of the result is always set.

    Shape:   source and spool_dir as open_archive has them
    Returns: an Archive; the caller owns it and must leave it
    Raises:  BadArchive, NotFound, UsageError, SyscallError
    """
    archive = _open(source, spool_dir, progress)
    members = archive.members
    if isinstance(members, DirectoryMembers):
        members.close()
        raise BadArchive(f"{archive.what} is a directory and not a tar")
    archive.rootfs = _rootfs_blob(members)
    return archive


def _open(source: str | int, spool_dir: str, progress: Progress | None) -> Archive:
    what = source if isinstance(source, str) and source != "-" else "standard input"
    try:
        members, spooled_bytes = _open_members(source, what, spool_dir, progress)
    except OSError as error:
        raise error if isinstance(error, SyscallError) else SyscallError(f"read {what}", error.errno or 5) from None
    archive = Archive(members, what)
    archive.spooled_bytes = spooled_bytes
    return archive


def _read_images(archive: Archive, wanted: Platform | None) -> None:
    members = archive.members
    is_layout = members.has_file("oci-layout") and members.has_file("index.json")
    # With an explicit platform the index is asked, since manifest.json can name only one.
    if members.has_file("manifest.json") and not (wanted and is_layout):
        _refuse_odd(members)
        manifest = parse_manifest_json(read_member(members, "manifest.json", limit_bytes=MAX_MANIFEST_BYTES))
        if isinstance(manifest, ImageManifest):
            reader = LayoutReader(members, wanted or host_platform(), blob_folder="")
            archive.kind, archive.images = "docker-dir", [reader.read_image(manifest, [])]
        else:
            archive.kind, archive.images = "docker-save", read_saved_images(members, manifest)
    elif is_layout:
        _refuse_odd(members)
        archive.kind, archive.images = "oci", LayoutReader(members, wanted or host_platform()).read_layout()
    else:
        archive.rootfs = _rootfs_of(archive)


def _rootfs_of(archive: Archive) -> LayerBlob:
    members, what = archive.members, archive.what
    if isinstance(members, DirectoryMembers):
        raise BadArchive(f"{what} is a directory without index.json and manifest.json", hint="an OCI layout has them")
    names = members.names()
    if not names and members.unsafe is None:
        raise BadArchive(f"{what}: the archive is empty")
    if b"repositories" in names and any(name.endswith(b"/layer.tar") for name in names):
        raise BadManifest(
            f"{what}: there is no manifest.json, only the v1 format of engines before 1.10",
            hint="load it with an old engine and save it again",
        )
    if b"oci-layout" in names or any(name.startswith(b"blobs/sha256/") for name in names):
        raise BadManifest(f"{what}: an image layout without index.json")
    return _rootfs_blob(members)


def _rootfs_blob(members: TarMembers) -> LayerBlob:
    return LayerBlob(
        members.fd, members.offset, members.length_bytes, compression="none", blob_digest=None, key="rootfs"
    )


def _refuse_odd(members: TarMembers | DirectoryMembers) -> None:
    """Refuse an image archive, other than a root's tree, with members that none has."""
    if not isinstance(members, TarMembers):
        return
    if members.unsafe is not None:
        raise members.unsafe
    if not members.is_complete:
        raise BadArchive(f"{members.what}: an image archive with more than {MAX_MEMBERS} members")


def _check_platform(image: ArchivedImage, what: str, wanted: Platform | None) -> None:
    config = image.config
    if config.os not in ("", "linux"):
        raise BadConfig(f"{what}: cannot load a {config.os[:40]!r} image on linux")
    if not config.architecture:
        return
    made_for = Platform(config.os, config.architecture, config.variant)
    if (wanted or host_platform()).rank(made_for) is not None:
        return
    if wanted is not None:
        raise BadManifest(f"{what}: the image is for {made_for} and not for {wanted}")
    image.warnings.append(f"the image's platform ({made_for}) does not match this machine's ({host_platform()})")


def _open_members(
    source: str | int, what: str, spool_dir: str, progress: Progress | None
) -> tuple[TarMembers | DirectoryMembers, int]:
    """Index the archive; the number is how many bytes had to be spooled for that."""
    fd = _open_source(source, what)
    spooled_bytes = 0
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            return DirectoryMembers(what), 0
        start = os.lseek(fd, 0, os.SEEK_CUR) if stat.S_ISREG(status.st_mode) else 0
        head = _read_head(fd)
        if not head:
            raise BadArchive(f"{what} is empty")
        kind = sniff(head)
        if kind == "none":
            _check_is_tar(head, what)
        if kind == "none" and stat.S_ISREG(status.st_mode):
            spool, fd = fd, -1
        else:
            spool = _spool(fd, kind, head, what, spool_dir, progress)
            start, spooled_bytes = 0, os.fstat(spool).st_size
    finally:
        if fd >= 0:
            os.close(fd)
    try:
        length_bytes = os.fstat(spool).st_size - start
        return TarMembers(spool, offset=start, length_bytes=length_bytes, what=what), spooled_bytes
    except BaseException:
        os.close(spool)
        raise


def _open_source(source: str | int, what: str) -> int:
    if isinstance(source, int) or source == "-":
        fd = os.dup(source if isinstance(source, int) else 0)
        if os.isatty(fd):
            os.close(fd)
            raise UsageError("requested load from stdin, but stdin is a terminal", hint="give a file, or - in a pipe")
        return fd
    if "\0" in source:
        raise NotFound(f"{source!r}: no such file or directory")
    try:
        return os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise NotFound(f"{what}: no such file or directory") from None
    except OSError as error:
        raise SyscallError(f"open({what!r})", error.errno or 5) from None


def _read_head(fd: int) -> bytes:
    """The first bytes of a file or stream, as many as its nature can be told from."""
    head = b""
    while len(head) < _HEAD_BYTES and (part := os.read(fd, _HEAD_BYTES - len(head))):
        head += part
    return head


def _check_is_tar(head: bytes, what: str) -> None:
    if is_tar_header(head[:BLOCK]):
        return
    if len(head) >= BLOCK and not head.strip(b"\0"):
        raise BadArchive(f"{what}: the archive is empty")
    words = "".join(character if character.isprintable() else "?" for character in identify(head)[:200])
    raise BadArchive(f"{what} is not an image archive: libmagic says {words}")


def _spool(fd: int, kind: str, head: bytes, what: str, spool_dir: str, progress: Progress | None) -> int:
    """Copy a stream, decompressed, into a file without a name; the caller owns the descriptor."""
    spool = -1
    try:
        spool = _unnamed_file(spool_dir)
        stream = open_decompressed(fd, kind, head=head)
        buffer = memoryview(bytearray(_COPY_BYTES))
        done = 0
        while size := _read_stream(stream, buffer, what):
            if done == 0 and kind != "none":
                _check_is_tar(bytes(buffer[: min(size, _HEAD_BYTES)]), f"{what} ({kind} compressed)")
            _leave_room(spool)
            _write_all(spool, buffer[:size])
            if progress is not None and done % _REPORT_BYTES == 0:
                progress("archive", "Reading", done, 0)
            done += size
        if not done:
            raise BadArchive(f"{what}: the archive is empty")
        if progress is not None:
            progress("archive", "Read complete", done, done)
    except BaseException as error:
        if spool >= 0:
            os.close(spool)
        if isinstance(error, OSError) and not isinstance(error, SyscallError):
            raise SyscallError(f"spool {what} in {spool_dir}", error.errno or 5) from None
        raise
    return spool


def _read_stream(stream: DecompressedFile, buffer: memoryview, what: str) -> int:
    try:
        return stream.readinto(buffer)
    except BadArchive as error:
        hint = error.hint or "the file is damaged or was cut: copy or make it once more"
        raise BadArchive(f"{what}: {error.message}", hint=hint) from None


def _leave_room(fd: int) -> None:
    """Stop before a stream that inflates without end takes the last of a disk from everybody else."""
    disk = os.fstatvfs(fd)
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < min(disk.f_blocks * disk.f_frsize // 50, _ROOM_BYTES):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _unnamed_file(folder: str) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        # Not every file system has O_TMPFILE (open(2)).
        path = f"{folder}/spool-{os.urandom(8).hex()}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        return fd
