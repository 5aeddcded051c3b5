"""Flushing a whole file system: syncfs(2)."""

from __future__ import annotations

from minidock.linux import cdata
from minidock.linux.libc import declare

_syncfs = declare("syncfs", cdata.c_int)


def sync_file_system(handle: int) -> None:
    """Flush to the disk all written so far to the file system that handle is open on; raises SyscallError."""
    _syncfs(handle)
