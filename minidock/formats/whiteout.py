"""The two spellings of a deletion: `.wh.` names in a tar, devices and xattrs in an overlay directory.

Source: OCI image spec, layer.md, "Whiteouts"; kernel overlayfs.rst, "whiteouts and opaque directories"
"""

from __future__ import annotations

from minidock.errors import UnsafePath

PREFIX = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"
OPAQUE_XATTR = "trusted.overlay.opaque"


def hidden_name(name: bytes) -> bytes:
    """The name that a whiteout entry hides.

    Shape:  name: the last component of a path, beginning with PREFIX
    Raises: UnsafePath where nothing, the directory itself or its parent would be hidden
    """
    hidden = name[len(PREFIX) :]
    if hidden in (b"", b".", b".."):
        raise UnsafePath(f"whiteout without a name: {name.decode()!r}")
    return hidden


def is_overlay_xattr(name: bytes) -> bool:
    """Whether an xattr belongs to overlayfs itself (`trusted.overlay.*`, `user.overlay.*`), never to a layer."""
    return name.startswith((b"trusted.overlay.", b"user.overlay."))
