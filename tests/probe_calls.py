"""Runs inside a container, by the host's python: one line for every system call, what the filter says to it.

Each call is made in a process of its own, with arguments that none accepts; what neither fails with EPERM nor
with ENOSYS got through. Some also need privileges when they are let through, so EPERM alone does not tell the
filter; equal lines in two containers with equal capabilities do. fork and vfork would write a line twice.
"""

from __future__ import annotations

import ctypes
import os
import signal

_NAMESPACES = 0x10000000
_CASES: list[tuple[int, tuple[int, ...]]] = [
    (number, (-1,) * 6) for number in (*range(335), *range(424, 600)) if number not in (56, 57, 58)
]
_CASES += [(56, (flag, -1, -1, -1, -1, -1)) for flag in (_NAMESPACES, 0x00020000, 0x40000000)]
_CASES += [(135, (persona,)) for persona in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF, 1, 0x40000)]
_CASES += [(0x40000000 + number, (-1,) * 6) for number in (39, 165, 500, 599)]
_WORDS = {1: "EPERM", 38: "ENOSYS"}


def _probe(number: int, arguments: tuple[int, ...]) -> None:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, 1.5)
        libc = ctypes.CDLL(None, use_errno=True)
        result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
        word = _WORDS.get(ctypes.get_errno(), "passed") if result == -1 else "passed"
        os.write(write_end, word.encode("ascii"))
        os._exit(0)
    os.close(write_end)
    word = os.read(read_end, 16).decode("ascii") or "ended"
    os.close(read_end)
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(child, 0)
    print(f"{number:#x} {arguments[0]:#x} {word}", flush=True)


for _number, _arguments in _CASES:
    _probe(_number, _arguments)
