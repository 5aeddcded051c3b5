"""A descriptor that only a process elsewhere can get: a child goes into other namespaces, and this process stays.

The child lives until the parent has taken what it came for, through /proc, say.
"""

from __future__ import annotations

import errno
import os

from minidock.errors import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


def take_from_child(act: Callable[[], int], take: Callable[[int, int], int], purpose: str) -> int:
    """Have a child act, and take a descriptor from it before it ends.

    Shape:   act: runs in the child, and gives the number of a descriptor there, or whatever take understands; take:
             gets the child's pid and that number; purpose: what for, in the words of an error
    Returns: what take returned
    Raises:  SyscallError, the child's own or take's
    """
    answer, tell = os.pipe2(os.O_CLOEXEC)
    wait, let_go = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        os.close(let_go)
        _serve(act, tell, wait)
    os.close(tell)
    os.close(wait)
    try:
        words = os.read(answer, 4096).decode("utf-8", "surrogateescape").split("\0")
        if len(words) == 2:
            raise SyscallError(words[0], int(words[1]))
        if not words[0].isdecimal():
            raise SyscallError(purpose, errno.ECHILD)
        return take(pid, int(words[0]))
    except OSError as error:
        if isinstance(error, SyscallError):
            raise
        raise SyscallError(purpose, error.errno or 5) from None
    finally:
        os.close(answer)
        os.close(let_go)
        os.waitpid(pid, 0)


def _serve(act: Callable[[], int], tell: int, wait: int) -> NoReturn:
    """The child's life: act, tell the number or the error, and stay until the parent has taken what it wants."""
    try:
        try:
            answer = str(act())
        except SyscallError as error:
            answer = f"{error.call[:3000]}\0{error.errno}"
        except OSError as error:
            answer = f"open\0{error.errno or 5}"
        os.write(tell, answer.encode("utf-8", "surrogateescape"))
        os.read(wait, 1)
    finally:
        os._exit(0)
