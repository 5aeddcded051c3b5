"""image/overlay2/distribution: which compressed blob a layer came from, as Docker's engine notes it for pulls.

A pull that meets a blob noted here knows its diff_id without fetching it. It is a cache: everything works
without it, so a note that cannot be written is told and nothing more.
Source: docker's engine, distribution/metadata; the shared format notes §2.5
"""

from __future__ import annotations

import os

from minidock.errors import FormatError, SyscallError
from minidock.ids import DiffID
from minidock.store.transaction import make_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.ids import Digest
    from minidock.store.root import DataRoot

_FOLDERS = ("distribution", "distribution/diffid-by-digest", "distribution/diffid-by-digest/sha256")
# A diff_id as text, and room for white space behind it.
_MAX_BYTES = 128


def diff_id_of(root: DataRoot, digest: Digest) -> DiffID | None:
    """The diff_id of the layer that a compressed blob holds; None if nothing readable is noted."""
    try:
        with open(f"{root.image_path}/{_FOLDERS[-1]}/{digest.hex}", "rb") as file:
            return DiffID.parse(file.read(_MAX_BYTES).decode("ascii", "replace").strip())
    except (OSError, FormatError):
        return None


def note_blob(root: DataRoot, digest: Digest, diff_id: DiffID) -> None:
    """Note that a compressed blob holds this layer. Shape: the caller has verified both and holds the root's lock"""
    if diff_id_of(root, digest) == diff_id:
        return
    try:
        for folder in _FOLDERS:
            if not os.path.isdir(f"{root.image_path}/{folder}"):
                make_directory(f"{root.image_path}/{folder}", 0o700)
        where = f"{root.image_path}/{_FOLDERS[-1]}/{digest.hex}"
        root.write_file(os.path.relpath(where, root.path), diff_id.encode("ascii"), 0o644, durable=False)
    except (OSError, SyscallError) as error:
        root.tell("write", f"distribution: {digest} is not noted: {error}")
