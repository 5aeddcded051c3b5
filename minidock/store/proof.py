"""Whether a directory of overlay2/ is a certain layer: only if its tar, made again, hashes to the layer's diff_id."""

from __future__ import annotations

import os

from minidock.errors import MinidockError
from minidock.ids import DiffID
from minidock.store.layertar import LayerFiles, read_steps

_READ_BYTES = 1 << 20


def rebuilt_digest(split_path: str, diff_path: str, diff_id: DiffID) -> str:
    """The digest of the tar that a tar-split and a directory give; raises StoreCorrupt, SyscallError."""
    from hashlib import sha256

    hasher = sha256(usedforsecurity=False)
    files = LayerFiles(diff_path, diff_id)
    try:
        for step in read_steps(split_path, diff_id):
            if isinstance(step, bytes):
                hasher.update(step)
                continue
            handle = files.open(step)
            try:
                while data := os.read(handle, _READ_BYTES):
                    hasher.update(data)
            finally:
                os.close(handle)
    finally:
        files.close()
    return "sha256:" + hasher.hexdigest()


class DirectoryProof:
    """How a directory proved to be a layer. Shape: copy: the tar-split used, relative to the root; or dialect"""

    __slots__ = ("cache_id", "copy", "dialect")

    def __init__(self, cache_id: str, *, copy: str = "", dialect: str = "") -> None:
        self.cache_id = cache_id
        self.copy = copy
        self.dialect = dialect

    def __str__(self) -> str:
        how = f"by {self.copy}" if self.copy else f"as docker commit makes it (dialect {self.dialect})"
        return f"the tar of overlay2/{self.cache_id}, {how}, hashes to the diff_id"


def prove_directory(root_path: str, cache_id: str, diff_id: str, copies: list[str]) -> DirectoryProof | None:
    """Try each tar-split that may belong to the layer, then what an engine's commit would make of the directory.

    Shape: copies: paths of tar-split files, relative to the root
    """
    from minidock.store.layerpack import find_dialect

    diff_path = f"{root_path}/overlay2/{cache_id}/diff"
    for copy in copies:
        try:
            if rebuilt_digest(f"{root_path}/{copy}", diff_path, DiffID(diff_id)) == diff_id:
                return DirectoryProof(cache_id, copy=copy)
        except MinidockError:
            continue
    try:
        dialect = find_dialect(diff_path, diff_id)
    except (MinidockError, OSError):
        return None
    return DirectoryProof(cache_id, dialect=dialect) if dialect else None
