"""The identities of the store: told apart by the type checker, checked before they join a path.

A digest is the hash of bytes as transported, a diff_id that of an uncompressed layer tar, a chain_id the
fold of diff_ids from the bottom layer up, an image_id that of the config's bytes; a cache_id names a
directory below overlay2/, a link_id a short symlink below overlay2/l/.
"""

from __future__ import annotations

import os

from minidock.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_HEX = frozenset("0123456789abcdef")
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_BASE32_SET = frozenset(_BASE32)
LINK_ID_LENGTH = 26


def is_hex64(text: str) -> bool:
    """Whether text is exactly 64 lower-case hexadecimal digits."""
    return len(text) == 64 and _HEX.issuperset(text)


def _is_buildkit_id(text: str) -> bool:
    return len(text) == 25 and text.isascii() and text.isalnum() and text.islower()


class Digest(str):
    """A sha256 digest in the form `sha256:<64 lower-case hex digits>`.

    Source: OCI image spec, descriptor.md, "Digests"
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check text and return it as this kind of digest; raises FormatError."""
        if not (isinstance(text, str) and text.startswith("sha256:") and is_hex64(text[7:])):
            raise FormatError(f"not a sha256 digest: {text!r}")
        return cls(text)

    @classmethod
    def of_hex(cls, hexdigest: str) -> Self:
        """The digest whose hexadecimal part is given; raises FormatError."""
        return cls.parse("sha256:" + hexdigest)

    @property
    def hex(self) -> str:
        """The 64 hexadecimal digits."""
        return self[7:]


class DiffID(Digest):
    """The digest of a layer's uncompressed tar."""

    __slots__ = ()


class ChainID(Digest):
    """The digest that names a layer together with all layers below it."""

    __slots__ = ()


class ImageID(Digest):
    """The digest of an image config's bytes."""

    __slots__ = ()


class CacheID(str):
    """The name of a directory below overlay2/: 64 hex digits, with `-init` for a container's init layer.

    BuildKit inside Docker's engine names those of the layers that it builds by 25 digits and letters.
    Source: buildkit identity/randomid.go, NewID
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "CacheID":
        """Check text and return it as a cache_id; raises FormatError."""
        if not isinstance(text, str) or not (is_hex64(text.removesuffix("-init")) or _is_buildkit_id(text)):
            raise FormatError(f"not an overlay2 directory name: {text!r}")
        return cls(text)


class LinkID(str):
    """The name of a symlink below overlay2/l/: 26 characters of base32."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "LinkID":
        """Check text and return it as a link_id; raises FormatError."""
        if not (isinstance(text, str) and len(text) == LINK_ID_LENGTH and _BASE32_SET.issuperset(text)):
            raise FormatError(f"not an overlay2 link name: {text!r}")
        return cls(text)

    @classmethod
    def random(cls) -> "LinkID":
        """A new link_id from the kernel's random numbers."""
        return cls.of_number(int.from_bytes(os.urandom(17), "big") >> 6)

    @classmethod
    def of_number(cls, number: int) -> "LinkID":
        """The link_id of a number's lowest 130 bits."""
        return cls("".join(_BASE32[(number >> shift) & 31] for shift in range(125, -1, -5)))


class ContainerID(str):
    """A container's ID: 64 hex digits."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "ContainerID":
        """Check text and return it as a container_id; raises FormatError."""
        if not (isinstance(text, str) and is_hex64(text)):
            raise FormatError(f"not a container ID: {text!r}")
        return cls(text)

    @property
    def short(self) -> str:
        """The first twelve digits, as tables and host names show them."""
        return self[:12]


def sha256_hex(data: bytes) -> str:
    """The sha256 of a small document, in hex, without loading OpenSSL, which alone takes a tenth of a short command."""
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256
    digest: str = sha256(data).hexdigest()
    return digest


def random_hex64() -> str:
    """A new random ID whose first twelve digits are not all decimal, since they may become a host name.

    Source: shared format notes §2.6; the engine redraws such IDs for the same reason
    """
    while True:
        text = os.urandom(32).hex()
        if not text[:12].isdecimal():
            return text


def chain_id_of(parent: ChainID | None, diff_id: DiffID) -> ChainID:
    """The chain_id of a layer on top of parent.

    Shape:   parent None for the bottom layer, whose chain_id is its diff_id
    Source:  OCI image spec, config.md, "Layer ChainID": sha256 of `<parent chain_id> <diff_id>` in ASCII
    """
    if parent is None:
        return ChainID(diff_id)
    return ChainID("sha256:" + sha256_hex(f"{parent} {diff_id}".encode("ascii")))


def chain_ids_of(diff_ids: list[DiffID]) -> list[ChainID]:
    """The chain_ids of a stack of layers, bottom first, one for each diff_id."""
    chain_ids: list[ChainID] = []
    parent: ChainID | None = None
    for diff_id in diff_ids:
        parent = chain_id_of(parent, diff_id)
        chain_ids.append(parent)
    return chain_ids
