"""Whether a file system can hold layers at all: what no mount would say, and a container would find out.

Source: kernel Documentation/filesystems/overlayfs.rst, "Upper and Lower"; moby daemon/graphdriver/overlayutils
"""

from __future__ import annotations

import errno
import os

from minidock.errors import StoreError
from minidock.linux.directories import tells_kinds

_ELSEWHERE = "use another --root"


def has_kinds(overlay_path: str) -> bool:
    """Whether directories tell the kind of each name (d_type); so does one that is not there yet."""
    return not os.path.isdir(f"{overlay_path}/l") or tells_kinds(overlay_path)


def refuse_unfit(overlay_path: str) -> None:
    """Refuse, as docker's engine does, a file system on which overlayfs is mounted and then loses changes.

    Raises: StoreError
    """
    if not has_kinds(overlay_path):
        raise StoreError(
            f"{overlay_path} is on a file system formatted without d_type support: deleted files would still be listed",
            hint=f"mkfs.xfs -n ftype=1 and mkfs.ext4 -O filetype make one with it; or {_ELSEWHERE}",
        )
    try:
        os.getxattr(overlay_path, "trusted.overlay.opaque")
    except OSError as error:
        # Where there is only no such attribute, or none that this process may see, all is well.
        if error.errno == errno.ENOTSUP:
            raise StoreError(
                f"{overlay_path} is on a file system without trusted attributes, as a replaced directory needs one",
                hint=_ELSEWHERE,
            ) from None
