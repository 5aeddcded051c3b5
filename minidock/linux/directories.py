"""What a directory tells of its names without a look at each: getdents64(2), which glibc wraps since 2.30."""

from __future__ import annotations

import os

from minidock.linux import cdata
from minidock.linux.libc import declare

_getdents64 = declare("getdents64", cdata.c_int, cdata.c_char_p, cdata.c_size_t, restype=cdata.c_ssize_t)

_BUFFER_BYTES = 4096
_RECORD_OFFSET, _TYPE_OFFSET, _NAME_OFFSET = 16, 18, 19


def tells_kinds(path: str) -> bool:
    """Whether the file system at a directory with a name in it tells there what kind of file each is (d_type).

    Raises: SyscallError
    Source: getdents(2), struct linux_dirent64
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        buffer = cdata.create_string_buffer(_BUFFER_BYTES)
        filled = _getdents64(handle, buffer, _BUFFER_BYTES)
    finally:
        os.close(handle)
    data, place = buffer.raw[:filled], 0
    while place < filled:
        length = int.from_bytes(data[place + _RECORD_OFFSET : place + _RECORD_OFFSET + 2], "little")
        name = data[place + _NAME_OFFSET : place + length].partition(b"\0")[0]
        # xfs without ftype tells the kind of these two all the same
        if name not in (b".", b".."):
            return data[place + _TYPE_OFFSET] != 0
        place += length
    return True
