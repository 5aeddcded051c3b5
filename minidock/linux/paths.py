"""Paths below a root that may be hostile, resolved by the kernel and never by joining strings.

Source: openat2(2); kernel 5.6 and newer
"""

from __future__ import annotations

import os

from minidock.linux import cdata
from minidock.linux.libc import syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10


class _OpenHow(cdata.Structure):
    _fields_ = (("flags", cdata.c_uint64), ("mode", cdata.c_uint64), ("resolve", cdata.c_uint64))


def open_in_root(
    root_fd: int, path: bytes, flags: int, mode: int = 0, *, resolve: int = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
) -> int:
    """Open path as a process whose root directory is root_fd would see it.

    Shape:   path as bytes; absolute paths, `..` and symlinks all stay below root_fd
    Returns: a close-on-exec descriptor; the caller owns it
    Raises:  SyscallError (ENOENT, ELOOP, EXDEV, ...)
    Source:  openat2(2)
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return syscall("openat2", root_fd, path or b".", cdata.byref(how), cdata.sizeof(how))


def read_in_root(root_fd: int, path: bytes, limit_bytes: int) -> bytes:
    """Read a regular file below a hostile root; FIFOs and devices are never opened for reading.

    Returns: at most limit_bytes bytes
    Raises:  SyscallError; IsADirectoryError and OSError(EINVAL) when it is no regular file
    """
    import errno
    import stat

    handle = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
        chunks: list[bytes] = []
        left = limit_bytes
        # One more than there is, so that a small file's end is seen without room being made for a large one.
        piece_bytes = min(max(status.st_size + 1, 4096), 1 << 20)
        while left > 0 and (chunk := os.read(handle, min(left, piece_bytes))):
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(handle)
