"""User namespaces: making one with its maps, and acting as a user of one. Source: user_namespaces(7), setfsuid(2)"""

from __future__ import annotations

import os

from minidock.errors import SyscallError
from minidock.linux import cdata
from minidock.linux.libc import declare
from minidock.linux.namespaces import CLONE_NEWUSER
from minidock.linux.process import clone_process

_setfsuid = declare("setfsuid", cdata.c_uint32)
_setfsgid = declare("setfsgid", cdata.c_uint32)


def make_user_namespace(uid_map: bytes, gid_map: bytes) -> int:
    """A new user namespace in which nobody is yet.

    Shape:   the maps as the lines of /proc/PID/uid_map and gid_map; the caller has one thread
    Returns: a close-on-exec descriptor that keeps it
    Raises:  SyscallError
    """
    wait, go = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = clone_process(CLONE_NEWUSER)
    if not pid:
        try:
            os.close(go)
            os.read(wait, 1)
        finally:
            os._exit(0)
    try:
        os.close(pidfd)
        os.close(wait)
        for name, lines in (("uid_map", uid_map), ("gid_map", gid_map)):
            _write(f"/proc/{pid}/{name}", lines)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(go)
        os.waitpid(pid, 0)


def _write(path: str, data: bytes) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, data)
        finally:
            os.close(handle)
    except OSError as error:
        raise SyscallError(f"write {path}", error.errno or 0) from None


def set_filesystem_ids(uid: int, gid: int) -> None:
    """Have what this process makes belong to these; other rights than a user's over files go with the change."""
    _setfsgid(gid)
    _setfsuid(uid)
