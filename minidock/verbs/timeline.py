"""`timeline`: every file of every layer with its times, as a body file for mactime.

A whiteout's change time is when a file was deleted; an upper directory's inode times tell what a merged mount hides.
"""

from __future__ import annotations

import errno
import os
import stat

from minidock.constants import DRIVER
from minidock.errors import SyscallError
from minidock.formats.bodyfile import BodyLine
from minidock.linux.statx import birth_time_s
from minidock.store.catalogue import Catalogue
from minidock.store.layerstack import CONTAINER, INIT, stack_of
from minidock.store.layerusers import LayerUsers
from minidock.store.stackwalk import StackWalk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from minidock.store.evidence import Evidence
    from minidock.store.stackwalk import StackEntry, Version

_CHUNK_BYTES = 1 << 20
_SECOND_NS = 1_000_000_000


def timeline(
    evidence: Evidence, name: str = "", *, hashes: bool = False, faults: list[str] | None = None
) -> Iterator[BodyLine]:
    """The files of an image's or a container's layers, the bottom layer first, or of all of overlay2/.

    Shape:   name "": every directory, also those that nothing refers to; hashes: read each regular file for its MD5;
             faults: gets what is missing
    Returns: names as `/layer-2:<directory>/etc/passwd`, a symlink's with ` -> target`, a deletion's with ` (whiteout)`,
             a directory's that hides all below it with ` (opaque)`
    Raises:  StoreError, NoSuchContainer, SyscallError
    """
    catalogue = Catalogue(evidence)
    missing: list[str] = [] if faults is None else faults
    if name:
        stack = stack_of(catalogue, name)
        missing += stack.faults
        layers = [(layer.label.replace(" ", "-"), layer.cache_id) for layer in reversed(stack.layers) if layer.cache_id]
    else:
        layers = _all_layers(catalogue)
    return _lines(evidence, layers, hashes)


def _all_layers(catalogue: Catalogue) -> list[tuple[str, str]]:
    users = LayerUsers(catalogue)
    found = []
    for cache_id in catalogue.cache_ids():
        _, role = users.owner_of.get(cache_id, ("", ""))
        label = {CONTAINER: "container", INIT: "init-layer"}.get(role)
        if label is None:
            label = "layer" if cache_id in users.chains_of else "orphan"
        found.append((label, cache_id))
    return found


def _lines(evidence: Evidence, layers: list[tuple[str, str]], hashes: bool) -> Iterator[BodyLine]:
    for label, cache_id in layers:
        try:
            root = evidence.open_directory(f"{DRIVER}/{cache_id}/diff")
        except OSError:
            continue
        prefix = os.fsencode(f"/{label}:{cache_id[:12]}{'-init' if cache_id.endswith('-init') else ''}/")
        try:
            walk = StackWalk([root], flags=evidence.flags)
            for entry in walk:
                line = _line(entry, entry.versions[0], prefix, hashes)
                if line is not None:
                    yield line
        finally:
            os.close(root)


def _line(entry: StackEntry, version: Version, prefix: bytes, hashes: bool) -> BodyLine | None:
    """The line of a file; None when it went while it was looked at, as in a container that runs."""
    status = version.status
    name = prefix + entry.path
    try:
        if stat.S_ISLNK(status.st_mode):
            name += b" -> " + entry.read_link(version)
        elif version.is_whiteout:
            name += b" (whiteout)"
        elif version.is_opaque:
            name += b" (opaque)"
        born_s = birth_time_s(entry.parent(version), entry.base)
        line = BodyLine(
            name,
            (status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_size),
            (
                status.st_atime_ns // _SECOND_NS,
                status.st_mtime_ns // _SECOND_NS,
                status.st_ctime_ns // _SECOND_NS,
                born_s,
            ),
        )
        if hashes and stat.S_ISREG(status.st_mode):
            line.md5 = _md5(entry.open(version))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        if isinstance(error, SyscallError):
            raise
        raise SyscallError(f"read {os.fsdecode(name)!r}", error.errno or errno.EIO) from None
    return line


def _md5(handle: int) -> str:
    from hashlib import md5

    hasher = md5(usedforsecurity=False)
    try:
        while chunk := os.read(handle, _CHUNK_BYTES):
            hasher.update(chunk)
    finally:
        os.close(handle)
    return hasher.hexdigest()
