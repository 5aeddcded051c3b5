"""mount(2), umount2(2) and pivot_root(2), with the shell line that does the same."""

from __future__ import annotations

import os

from minidock.linux import cdata
from minidock.linux.libc import declare, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_DIRSYNC = 0x80
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_mount = declare("mount", cdata.c_char_p, cdata.c_char_p, cdata.c_char_p, cdata.c_ulong, cdata.c_char_p)
_umount2 = declare("umount2", cdata.c_char_p, cdata.c_int)


def mount(source: bytes | None, target: bytes, fstype: bytes | None, flags: int, data: bytes | None = None) -> None:
    """Mount; the arguments are mount(2)'s. Raises SyscallError."""
    _mount(source, target, fstype, flags, data)


def umount(target: bytes, flags: int = 0) -> None:
    """Unmount target, a path; raises SyscallError. Source: umount2(2)"""
    _umount2(target, flags)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """Make new_root the root mount and move the old one to put_old; raises SyscallError. Source: pivot_root(2)"""
    syscall("pivot_root", new_root, put_old)


_FLAG_WORDS = (
    (MS_RDONLY, "ro"),
    (MS_NOSUID, "nosuid"),
    (MS_NODEV, "nodev"),
    (MS_NOEXEC, "noexec"),
    (MS_SYNCHRONOUS, "sync"),
    (MS_DIRSYNC, "dirsync"),
    (MS_NOATIME, "noatime"),
    (MS_NODIRATIME, "nodiratime"),
    (MS_RELATIME, "relatime"),
    (MS_STRICTATIME, "strictatime"),
)
_PROPAGATION = ((MS_PRIVATE, "private"), (MS_SLAVE, "slave"), (MS_SHARED, "shared"))


def shell_word(word: str) -> str:
    """A word as one may type it in a shell, without control characters; one that ends in a newline needs bash."""
    if not word.isprintable():
        data = word.encode("utf-8", "surrogateescape")
        # A command's last newlines are lost to any shell.
        special = b"'\\" if word.endswith("\n") else b"'\\%"
        letters = "".join(chr(byte) if 32 <= byte < 127 and byte not in special else f"\\{byte:03o}" for byte in data)
        return f"$'{letters}'" if word.endswith("\n") else f"\"$(printf '{letters}')\""
    safe = word and all(letter.isalnum() or letter in "@%+=:,./_-" for letter in word)
    return word if safe else "'" + word.replace("'", "'\"'\"'") + "'"


def describe_mount(
    source: bytes | None, target: bytes, fstype: bytes | None, flags: int, data: bytes | None = None
) -> str:
    """The mount(8) line that makes the same mount(2) call, fit to be pasted into a shell."""
    where = shell_word(os.fsdecode(target))
    for bit, word in _PROPAGATION:
        if flags & bit:
            return f"mount --make-{'r' if flags & MS_REC else ''}{word} {where}"
    words = [word for bit, word in _FLAG_WORDS if flags & bit]
    if flags & MS_REMOUNT:
        words.insert(0, "remount")
    if flags & MS_BIND and flags & MS_REMOUNT:
        words.insert(1, "bind")
    elif flags & MS_BIND:
        return f"mount --{'r' if flags & MS_REC else ''}bind {shell_word(os.fsdecode(source or b''))} {where}"
    if data:
        words.append(os.fsdecode(data))
    options = f" -o {shell_word(','.join(words))}" if words else ""
    if flags & MS_REMOUNT:
        return f"mount{options} {where}"
    return f"mount -t {os.fsdecode(fstype or b'none')}{options} {shell_word(os.fsdecode(source or b'none'))} {where}"


OPEN_TREE_CLONE = 1
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_AT_FDCWD = -100
_MOVE_MOUNT_EMPTY_PATHS = 0x04 | 0x40


def clone_tree(path: bytes, *, recursive: bool, follow: bool = True, at_fd: int = _AT_FDCWD) -> int:
    """A detached copy of the mount at path, a bind mount not yet put anywhere.

    Shape:   an empty path with at_fd copies what at_fd is
    Returns: a close-on-exec descriptor of the copy's root; attach_tree puts it in place
    Raises:  SyscallError
    Source:  open_tree(2), Linux 5.2
    """
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    flags |= (0 if path else _AT_EMPTY_PATH) | (0 if follow else _AT_SYMLINK_NOFOLLOW)
    return syscall("open_tree", at_fd, path, flags)


def attach_tree(tree_fd: int, target_fd: int) -> None:
    """Put a detached mount exactly where target_fd is, without a second look at any name.

    Raises: SyscallError, ENOTDIR when one is a directory and the other is not
    Source: move_mount(2)
    """
    syscall("move_mount", tree_fd, b"", target_fd, b"", _MOVE_MOUNT_EMPTY_PATHS)


_MOUNT_ATTR_RDONLY = 0x01
_MOUNT_ATTR_NOSUID = 0x02
_MOUNT_ATTR_NODEV = 0x04
_MOUNT_ATTR_NOEXEC = 0x08
_MOUNT_ATTR_NOATIME = 0x10
_MOUNT_ATTR_ATIME_MASK = 0x70


class _MountAttributes(cdata.Structure):
    _fields_ = tuple((name, cdata.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


def seal_tree(tree_fd: int, *, recursive: bool = False) -> None:
    """Make a detached mount read-only, without access times, devices, set-id bits and execution.

    Shape:  recursive: and all mounts below it
    Raises: SyscallError, ENOSYS before Linux 5.12
    Source: mount_setattr(2)
    """
    wanted = _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV | _MOUNT_ATTR_NOEXEC | _MOUNT_ATTR_NOATIME
    attributes = _MountAttributes(attr_set=wanted, attr_clr=_MOUNT_ATTR_ATIME_MASK)
    size = cdata.sizeof(attributes)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    syscall("mount_setattr", tree_fd, b"", flags, cdata.byref(attributes), size)


_MOUNT_ATTR_IDMAP = 0x00100000
_FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 1, 6
_FSCONFIG_SET_FLAG = 0
_CLOEXEC = 1


def map_tree(tree_fd: int, userns_fd: int, *, recursive: bool = False) -> None:
    """Show a detached mount's files as those of a user namespace: who is 0 on the disk is its 0 in the mount.

    Raises: SyscallError, EINVAL where the file system or the kernel has no idmapped mounts
    Source: mount_setattr(2), "ID-mapped mounts", Linux 5.12
    """
    attributes = _MountAttributes(attr_set=_MOUNT_ATTR_IDMAP, userns_fd=userns_fd)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    syscall("mount_setattr", tree_fd, b"", flags, cdata.byref(attributes), cdata.sizeof(attributes))


def new_mount(fstype: bytes, options: Sequence[tuple[bytes, bytes | None]], flags: int) -> int:
    """A detached mount of a new file system.

    Shape:   options: None for one without a value; flags: MS_NOSUID, MS_NODEV, MS_NOEXEC and MS_RDONLY, which
             MOUNT_ATTR_* equal
    Returns: a close-on-exec descriptor of its root; attach_tree puts it in place
    Raises:  SyscallError
    Source:  fsopen(2), fsmount(2), Linux 5.2
    """
    context = syscall("fsopen", fstype, _CLOEXEC)
    try:
        for key, value in options:
            how = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            syscall("fsconfig", context, how, key, value, 0)
        syscall("fsconfig", context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return syscall("fsmount", context, _CLOEXEC, flags)
    finally:
        os.close(context)
