"""statx(2), for the one thing that stat(2) does not tell: when a file was made.

Source: statx(2); glibc wraps it since 2.28
"""

from __future__ import annotations

from struct import unpack_from

from minidock.linux import cdata
from minidock.linux.libc import declare

_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_BTIME = 0x800
_STATX_BYTES = 256
_BTIME_OFFSET = 80

_statx = declare("statx", cdata.c_int, cdata.c_char_p, cdata.c_int, cdata.c_uint, cdata.c_char_p)


def birth_time_s(directory_fd: int, name: bytes) -> int:
    """When a file was made, in seconds since 1970; 0 where the file system does not keep it.

    Raises: SyscallError
    """
    buffer = cdata.create_string_buffer(_STATX_BYTES)
    _statx(directory_fd, name, _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, buffer)
    (mask,) = unpack_from("=I", buffer.raw)
    if not mask & _STATX_BTIME:
        return 0
    seconds: int = unpack_from("=q", buffer.raw, _BTIME_OFFSET)[0]
    return seconds
