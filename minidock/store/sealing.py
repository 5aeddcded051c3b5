"""For readers that go by path: the kernel itself keeps this process from changing so much as an access time of a root.

What can be read through one descriptor is better read so, see evidence.py; this is for all the rest.

Reading a file, listing a directory and following a symlink each move an access time, and no flag of open(2) prevents
the last. So the process gets a mount namespace of its own, in which the root lies on itself as a mount that is
read-only and without access times. All paths stay what they are, mounts below the root included.

Source: mount_setattr(2), MOUNT_ATTR_NOATIME, Linux 5.12; open_tree(2), OPEN_TREE_CLONE
"""

from __future__ import annotations

import os

from minidock import errors
from minidock.errors import MinidockError, StoreError, SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def in_sealed_process(path: str, act: Callable[[], Any]) -> Any:
    """Do something in a process of its own, to which a data root is sealed; the caller's namespaces stay as they are.

    Shape:   act returns what JSON can hold
    Returns: what act returned
    Raises:  the MinidockError that act raised, by its class and its line
    """
    from json import dumps, loads

    answer, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        try:
            data = dumps(_outcome(path, act)).encode("ascii")
            while data:
                data = data[os.write(tell, data) :]
        finally:
            os._exit(0)
    os.close(tell)
    chunks = []
    try:
        while chunk := os.read(answer, 1 << 16):
            chunks.append(chunk)
    finally:
        os.close(answer)
        os.waitpid(pid, 0)
    if not chunks:
        raise StoreError("the process that reads the data root ended before its work was done")
    word, value = loads(b"".join(chunks))
    if word == "done":
        return value
    raise _error_of(word, *value)


def _outcome(path: str, act: Callable[[], Any]) -> list[Any]:
    try:
        seal(path)
        return ["done", act()]
    except SyscallError as error:
        # A mount's call may be a page long.
        return ["SyscallError", [error.call[:3000], error.hint, error.errno]]
    except MinidockError as error:
        return [type(error).__name__, [error.message, error.hint, 0]]
    except OSError as error:
        return ["SyscallError", [f"read {error.filename}", "", error.errno or 5]]


def _error_of(name: str, message: str, hint: str, number: int) -> MinidockError:
    if name == "SyscallError":
        return SyscallError(message, number, hint=hint)
    kind = getattr(errors, name)
    # Some of them make their line out of other arguments.
    error: MinidockError = kind.__new__(kind)
    MinidockError.__init__(error, message, hint=hint)
    return error


def seal(path: str) -> bool:
    """Let this process see a directory read-only and without access times, for good.

    Shape:   path: as DataRoot.open takes it; changes the calling thread's mount namespace, so it belongs into a process
             of one thread that only reads; whoever started the process sees nothing of it
    Returns: False when the kernel or missing rights forbid it, or there is no such directory: then nothing is changed
    """
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        return False
    from minidock.linux.mount import MS_PRIVATE, MS_REC, attach_tree, clone_tree, mount, seal_tree
    from minidock.linux.namespaces import CLONE_NEWNS, unshare

    try:
        unshare(CLONE_NEWNS)
        mount(None, b"/", None, MS_REC | MS_PRIVATE)
        tree = clone_tree(os.fsencode(real), recursive=True)
    except SyscallError:
        return False
    try:
        seal_tree(tree, recursive=True)
        target = os.open(real, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attach_tree(tree, target)
        finally:
            os.close(target)
    except OSError:
        return False
    finally:
        os.close(tree)
    return True
