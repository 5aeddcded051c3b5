"""Seccomp filters on their way into the kernel. Source: seccomp(2); linux/filter.h, struct sock_filter"""

from __future__ import annotations

from minidock.errors import SyscallError
from minidock.linux import cdata
from minidock.linux.libc import syscall

INSTRUCTION_BYTES = 8
MAX_INSTRUCTIONS = 4096

_SECCOMP_SET_MODE_FILTER = 1


class _Program(cdata.Structure):
    _fields_ = (("length", cdata.c_ushort), ("instructions", cdata.c_char_p))


class PreparedFilter:
    """A filter laid out in memory, so that nothing has to be allocated when it is loaded."""

    __slots__ = ("_program",)

    def __init__(self, program: bytes) -> None:
        self._program = _Program(len(program) // INSTRUCTION_BYTES, program)

    def load(self) -> None:
        """Put this process and all it becomes under the filter.

        Shape:  needs CAP_SYS_ADMIN or no_new_privs
        Raises: SyscallError
        """
        try:
            syscall("seccomp", _SECCOMP_SET_MODE_FILTER, 0, cdata.byref(self._program))
        except SyscallError as error:
            raise SyscallError("seccomp(SECCOMP_SET_MODE_FILTER)", error.errno or 0) from None
