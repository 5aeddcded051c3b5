"""What an archive offers: images, and where in it the bytes of their layers lie."""

from __future__ import annotations

import os

from minidock.errors import BadArchive, DigestMismatch
from minidock.formats.compression import SNIFF_BYTES, sniff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from minidock.formats.imageconfig import ImageConfig
    from minidock.formats.reference import Reference
    from minidock.ids import DiffID, Digest, ImageID

    class Members(Protocol):
        """An index of files: a tar's members or a directory's files."""

        what: str

        def has_file(self, name: str) -> bool: ...

        def locate(self, name: str) -> tuple[int, int, int]: ...

        def close(self) -> None: ...


class LayerBlob:
    """A layer's bytes as they lie in an archive.

    Shape: compression as `compression.sniff` names it; blob_digest that of the bytes as they lie there, None when
           the archive does not promise one; key names the layer in progress reports
    """

    __slots__ = ("blob_digest", "compression", "fd", "key", "length_bytes", "offset")

    def __init__(
        self, fd: int, offset: int, length_bytes: int, *, compression: str, blob_digest: Digest | None, key: str
    ) -> None:
        self.fd = fd
        self.offset = offset
        self.length_bytes = length_bytes
        self.compression = compression
        self.blob_digest = blob_digest
        self.key = key

    def describe(self) -> str:
        """A shell pipeline that prints the layer's plain tar; empty when no file by name has it, as with a pipe."""
        from minidock.linux.mount import shell_word

        path = os.readlink(f"/proc/self/fd/{self.fd}")
        if not os.path.exists(path) or not os.path.samestat(os.stat(path), os.fstat(self.fd)):
            return ""
        line = f"tail -c +{self.offset + 1} {shell_word(path)} | head -c {self.length_bytes}"
        return line if self.compression == "none" else f"{line} | {self.compression} -dc"


class ArchivedImage:
    """One image of an archive; layers bottom first, one for each diff_id of the config.

    Shape: parent only when the archive names one; warnings are lines for the user
    """

    __slots__ = ("config", "layers", "parent", "references", "warnings")

    def __init__(
        self,
        config: ImageConfig,
        references: list[Reference],
        layers: list[LayerBlob],
        *,
        parent: ImageID | None = None,
    ) -> None:
        self.config = config
        self.references = references
        self.layers = layers
        self.parent = parent
        self.warnings: list[str] = []


def layer_key(diff_id: DiffID) -> str:
    """The short name of a layer in progress reports."""
    return diff_id.hex[:12]


def locate_layer(members: Members, name: str, diff_id: DiffID, blob_digest: Digest | None) -> LayerBlob:
    """Find a layer in an archive and look at its first bytes; raises BadArchive, UnsafePath."""
    fd, offset, length_bytes = members.locate(name)
    compression = sniff(os.pread(fd, min(SNIFF_BYTES, length_bytes), offset))
    return LayerBlob(fd, offset, length_bytes, compression=compression, blob_digest=blob_digest, key=layer_key(diff_id))


def read_member(
    members: Members, name: str, *, limit_bytes: int, digest: Digest | None = None, size_bytes: int | None = None
) -> bytes:
    """Read a small member whole and hold it against what was promised of it.

    Raises: BadArchive if it is missing or too large; DigestMismatch
    """
    fd, offset, length_bytes = members.locate(name)
    if length_bytes > limit_bytes:
        raise BadArchive(f"{members.what}: {name[:100]!r} has {length_bytes} bytes, more than {limit_bytes}")
    check_size(members, name, length_bytes, size_bytes)
    parts: list[bytes] = []
    while length_bytes and (part := os.pread(fd, length_bytes, offset)):
        parts.append(part)
        offset += len(part)
        length_bytes -= len(part)
    if length_bytes:
        raise BadArchive(f"{members.what}: truncated in {name[:100]!r}")
    data = b"".join(parts)
    if digest is not None:
        from hashlib import sha256

        actual = "sha256:" + sha256(data).hexdigest()
        if actual != digest:
            raise DigestMismatch(f"{members.what}: {name[:100]!r}", expected=digest, actual=actual)
    return data


def check_size(members: Members, name: str, length_bytes: int, size_bytes: int | None) -> None:
    """Raise BadArchive when a blob has another size than its descriptor says."""
    if size_bytes is not None and length_bytes != size_bytes:
        raise BadArchive(f"{members.what}: {name[:100]!r} has {length_bytes} bytes, its descriptor says {size_bytes}")
