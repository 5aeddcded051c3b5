"""docker cp: files between a container, running or not, and the host; or as a tar on a stream.

Every path of the container is resolved by the kernel below a descriptor of its root (openat2, RESOLVE_IN_ROOT), and
what is below is reached from open directories, so that neither the image nor a running program can lead out.

Source: docker/cli cli/command/container/cp.go; moby pkg/archive/copy.go; docs.docker.com, docker container cp
"""

from __future__ import annotations

import errno
import os
import stat

from minidock.errors import Conflict, NotFound, SyscallError, UsageError
from minidock.formats.mountspec import clean_path
from minidock.formats.tarwriter import portable_capability
from minidock.linux.paths import open_in_root
from minidock.runtime.containerroot import work_in_root
from minidock.store.treewriter import Attributes, TreeWriter
from minidock.store.upper import CAPABILITY_XATTR, allow_more_descriptors, walk_upper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minidock.runtime.usermap import UserMap

    _Owners = Callable[[int, int], tuple[int, int]]

    from minidock.store.containers import Container
    from minidock.store.root import DataRoot

_MAX_LINKS = 40
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _Tree:
    """Where paths are resolved: the host, or a container's root. Shape: shown: before a path in messages"""

    __slots__ = ("_root_fd", "shown")

    def __init__(self, root_fd: int = -1, shown: str = "") -> None:
        self._root_fd = root_fd
        self.shown = shown

    def open(self, path: bytes, flags: int) -> int:
        try:
            if self._root_fd < 0:
                return os.open(path, flags | os.O_CLOEXEC)
            return open_in_root(self._root_fd, path, flags)
        except SyscallError:
            raise
        except OSError as error:
            raise SyscallError(f"open {os.fsdecode(path)!r}", error.errno or 5) from None

    def missing(self, path: bytes) -> NotFound:
        text = os.fsdecode(path)
        if self.shown:
            return NotFound(f"No such container:path: {self.shown}:{text}")
        return NotFound(f"lstat {text}: no such file or directory")


def cp_from(
    root: DataRoot, container: str, path: str, target: str | int, *, follow: bool = False, archive: bool = False
) -> None:
    """Copy out of a container.

    Shape:   target: a host path, or a descriptor that gets a tar; follow: a symlink at path is not copied but what it
             points to; archive: keep the owners, which otherwise become the caller's
    Raises:  NoSuchContainer, NotFound, Conflict, SyscallError
    """
    source = root.containers.get(container)

    def act(root_fd: int, user_map: UserMap | None) -> None:
        tree = _Tree(root_fd, container)
        owners = None if user_map is None else user_map.inside
        if isinstance(target, int):
            _write_tar(tree, _absolute(path), target, follow=follow, owners=owners)
        else:
            copy = _Copy(tree, _absolute(path), follow=follow, owners=owners)
            copy.into(_Tree(), os.fsencode(target), keeps_owner=archive)

    work_in_root(source, act)


def cp_from_image(
    root: DataRoot, image: str, path: str, target: str | int, *, follow: bool = False, archive: bool = False
) -> None:
    """Copy out of an image, whose data root may be opened for reading only; otherwise as cp_from.

    Raises: NoSuchImage, NotFound, StoreCorrupt, SyscallError
    """
    from minidock.verbs.imagetree import open_image

    handle = open_image(root, image)
    tree = _Tree(handle, image)
    try:
        if isinstance(target, int):
            _write_tar(tree, _absolute(path), target, follow=follow, owners=None)
        else:
            copy = _Copy(tree, _absolute(path), follow=follow, owners=None)
            copy.into(_Tree(), os.fsencode(target), keeps_owner=archive)
    finally:
        os.close(handle)


def cp_to(root: DataRoot, source: str | int, container: str, path: str, *, follow: bool = False) -> None:
    """Copy into a container.

    Shape:   source: a host path, or a descriptor with a tar that is unpacked in the directory at path
    Raises:  NoSuchContainer, NotFound, Conflict, UsageError for a read-only root, BadArchive, SyscallError
    """
    target = root.containers.get(container)
    if not isinstance(source, int) and not os.path.lexists(source):
        raise NotFound(f"lstat {source}: no such file or directory")
    _refuse_read_only(target, path)

    def act(root_fd: int, user_map: UserMap | None) -> None:
        tree = _Tree(root_fd, container)
        owners = None if user_map is None else user_map.outside
        if isinstance(source, int):
            _read_tar(tree, _absolute(path), source, owners=owners)
        else:
            copy = _Copy(_Tree(), os.fsencode(source), follow=follow, owners=owners)
            copy.into(tree, _absolute(path), keeps_owner=True)

    work_in_root(target, act, writes=True)


def _refuse_read_only(container: Container, path: str) -> None:
    if not container.config.host_flag("ReadonlyRootfs"):
        return
    place = clean_path("/" + path)
    for point in container.light_config.mount_points:
        top = str(point.get("Destination", ""))
        if point.get("RW") is not False and (place == top or place.startswith(top.rstrip("/") + "/")):
            return
    raise UsageError("container rootfs is marked read-only")


def _absolute(path: str) -> bytes:
    return os.fsencode("/" + path.lstrip("/"))


def _split(path: bytes) -> tuple[bytes, bytes]:
    """Directory and name of a path, slashes at its end aside."""
    folder, _, name = path.rstrip(b"/").rpartition(b"/")
    return folder + b"/" if folder or path.startswith(b"/") else b".", name


class _Copy:
    """What is copied: one file or a directory, or with `/.` at the end a directory's content.

    Shape: owners: what the owners of files become, None for themselves
    """

    __slots__ = ("content_only", "follow", "name", "owners", "path", "tree")

    def __init__(self, tree: _Tree, path: bytes, *, follow: bool, owners: _Owners | None) -> None:
        self.tree = tree
        self.owners = owners
        self.path = path
        self.follow = follow or path.endswith((b"/", b"/."))
        words = path[:-2] if path.endswith(b"/.") else path
        named = os.fsencode(clean_path(os.fsdecode(words if tree.shown else os.path.abspath(words or b"/"))))
        self.name = named.rpartition(b"/")[2]
        self.content_only = path == b"." or path.endswith(b"/.") or not self.name

    def open(self) -> int:
        try:
            return self.tree.open(self.path, os.O_PATH | (0 if self.follow else os.O_NOFOLLOW))
        except SyscallError as error:
            if error.errno == errno.ENOENT:
                raise self.tree.missing(self.path) from None
            raise

    def into(self, target: _Tree, path: bytes, *, keeps_owner: bool) -> None:
        handle = self.open()
        try:
            status = os.fstat(handle)
            is_directory = stat.S_ISDIR(status.st_mode)
            top_fd, name = _destination(target, path, self.name, is_directory, self.content_only)
            writer = TreeWriter(top_fd, keeps_owner=keeps_owner)
            try:
                for_each_entry(handle, status, name, _with_owners(writer.put, self.owners))
                writer.close()
            finally:
                writer.abandon()
                os.close(top_fd)
        finally:
            os.close(handle)


def _destination(tree: _Tree, path: bytes, name: bytes, is_directory: bool, content_only: bool) -> tuple[int, bytes]:
    """The directory to write in, and the name there; no name for a directory's content."""
    wants_directory = path.endswith((b"/", b"/."))
    for _ in range(_MAX_LINKS):
        try:
            handle = tree.open(path, _DIRECTORY_FLAGS)
            return handle, b"" if content_only and is_directory else name
        except SyscallError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
        if wants_directory and not is_directory:
            raise NotFound("no such directory")
        folder, base = _split(path)
        try:
            parent = tree.open(folder, _DIRECTORY_FLAGS)
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
            if tree.shown:
                raise tree.missing(folder.rstrip(b"/")) from None
            shown = os.fsdecode(folder).rstrip("/")
            raise NotFound(f'invalid output path: directory "{shown}" does not exist') from None
        try:
            found = os.stat(base, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return parent, base
        if stat.S_ISLNK(found.st_mode):
            # Where a link points, also where nothing is yet, is where docker writes.
            target = os.readlink(base, dir_fd=parent)
            os.close(parent)
            path = target if target.startswith(b"/") else folder.rstrip(b"/") + b"/" + target
            continue
        if is_directory or wants_directory:
            os.close(parent)
            raise Conflict("cannot copy directory" if is_directory else "no such directory")
        return parent, base
    raise SyscallError(f"open {os.fsdecode(path)!r}", errno.ELOOP)


def for_each_entry(handle: int, status: os.stat_result, name: bytes, put: Callable[..., object]) -> None:
    """Give what handle, an O_PATH descriptor, holds to put, the top under name; without one only what is below."""
    if not stat.S_ISDIR(status.st_mode):
        _put_file(handle, status, name, put)
        return
    allow_more_descriptors()
    if name:
        put(name, _attributes(status))
    top = os.open(b"/proc/self/fd/%d" % handle, _DIRECTORY_FLAGS)
    prefix = name + b"/" if name else b""
    links: dict[tuple[int, int], bytes] = {}
    try:
        for entry in walk_upper(top, skip_vanished=True):
            path, one = prefix + entry.path, entry.status
            if stat.S_ISSOCK(one.st_mode):
                continue
            first = b""
            if one.st_nlink > 1 and not entry.is_directory:
                first = links.setdefault((one.st_dev, one.st_ino), path)
                first = b"" if first is path else first
            if stat.S_ISREG(one.st_mode) and not first:
                entry.open_file()
                try:
                    _put_open(entry.handle, path, put)
                finally:
                    entry.close_file()
            else:
                target = os.readlink(entry.base, dir_fd=entry.parent_fd) if stat.S_ISLNK(one.st_mode) else b""
                put(path, _attributes(one), target=target, first_link=first)
    finally:
        os.close(top)


def _put_file(handle: int, status: os.stat_result, name: bytes, put: Callable[..., object]) -> None:
    if stat.S_ISREG(status.st_mode):
        # The very file that handle is, whatever has its name by now.
        opened = os.open(b"/proc/self/fd/%d" % handle, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _put_open(opened, name, put)
        finally:
            os.close(opened)
        return
    if stat.S_ISSOCK(status.st_mode):
        raise UsageError(f"{os.fsdecode(name)!r} is a socket, which no tar can hold")
    target = os.readlink(b"", dir_fd=handle) if stat.S_ISLNK(status.st_mode) else b""
    put(name, _attributes(status), target=target)


def _put_open(handle: int, path: bytes, put: Callable[..., object]) -> None:
    attributes = _attributes(os.fstat(handle))
    try:
        attributes.capability = os.getxattr(handle, CAPABILITY_XATTR)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
    put(path, attributes, source_fd=handle)


def _attributes(status: os.stat_result) -> Attributes:
    owner = status.st_uid, status.st_gid
    return Attributes(status.st_mode, *owner, status.st_mtime_ns, status.st_rdev, size_bytes=status.st_size)


def _with_owners(put: Callable[..., object], owners: _Owners | None) -> Callable[..., object]:
    """put, given other owners than it is told, and capabilities that hold for whoever is root there."""
    if owners is None:
        return put

    def put_mapped(path: bytes, attributes: Attributes, **rest: Any) -> object:
        attributes.uid, attributes.gid = owners(attributes.uid, attributes.gid)
        attributes.capability = portable_capability(attributes.capability)
        return put(path, attributes, **rest)

    return put_mapped


def _write_tar(tree: _Tree, path: bytes, output: int, *, follow: bool, owners: _Owners | None) -> None:
    from minidock.formats.tarwriter import END_OF_ARCHIVE
    from minidock.store.tarentries import TarEntries
    from minidock.store.taroutput import TarOutput

    copy = _Copy(tree, path, follow=follow, owners=owners)
    handle = copy.open()
    try:
        stream = TarOutput(output, "standard output")
        put = _with_owners(TarEntries(stream).put, owners)
        for_each_entry(handle, os.fstat(handle), b"." if copy.content_only else copy.name, put)
        stream.put(END_OF_ARCHIVE)
        stream.flush()
    finally:
        os.close(handle)


def _read_tar(tree: _Tree, path: bytes, source: int, *, owners: _Owners | None) -> None:
    from minidock.formats.bytestream import FileReader
    from minidock.formats.tarstream import TarReader
    from minidock.store.tarentries import unpack_entry

    try:
        top_fd = tree.open(path, _DIRECTORY_FLAGS)
    except SyscallError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        raise UsageError(f'destination "{tree.shown}:{os.fsdecode(path)}" must be a directory') from None
    reader = FileReader(source)
    writer = TreeWriter(top_fd, open_below=lambda below: tree.open(path + b"/" + below, _DIRECTORY_FLAGS))
    try:
        for entry in TarReader(reader):
            unpack_entry(entry, reader, _with_owners(writer.put, owners))
        writer.close()
    finally:
        writer.abandon()
        os.close(top_fd)
