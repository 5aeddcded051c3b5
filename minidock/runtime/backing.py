"""Why an overlay could not be mounted: what the file system of the data root lacks.

Asked only after a mount has failed. Overlayfs wants its upper directory on a file system that takes device nodes (a
whiteout is one), attributes of the namespace `trusted` (an opaque directory has one), and names as they are.
Source: kernel Documentation/filesystems/overlayfs.rst, fs/overlayfs/super.c, ovl_make_workdir, ovl_dentry_weird
"""

from __future__ import annotations

import errno
import os

from minidock.errors import SyscallError
from minidock.store.transaction import owner_token, read_table

_S_IFCHR = 0o020000
_FS_IOC_GETFLAGS, _CASEFOLD = 0x80086601, 0x40000000
_NEVER = ("overlay", "nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "vfat", "msdos", "exfat", "squashfs", "iso9660")


def explain_unfit(error: SyscallError, overlay_path: str, stage_path: str) -> SyscallError:
    """The same error, with the reason where one can be found."""
    reason = _reason(overlay_path, stage_path)
    return SyscallError(error.call, error.errno or errno.EINVAL, hint=reason) if reason else error


def _reason(overlay_path: str, stage_path: str) -> str:
    kind = file_system_of(overlay_path)
    where = f"{overlay_path} lies on {kind or 'a file system'}"
    if kind.partition(".")[0] in _NEVER:
        return f"{where}, which cannot hold what a container writes; use a --root on ext4, xfs, btrfs or tmpfs"
    lacking = _lacking(f"{stage_path}/{owner_token()}.{os.urandom(6).hex()}")
    return f"{where}, which {lacking}; use another --root" if lacking else ""


def file_system_of(path: str) -> str:
    """The kind of the file system that a path is on; empty if the mount table does not tell."""
    number = os.stat(path).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    for line in reversed(os.fsdecode(read_table("/proc/self/mountinfo")).splitlines()):
        if line.split(" ", 3)[2] == device:
            return line.partition(" - ")[2].split(" ", 1)[0]
    return ""


def _lacking(trial: str) -> str:
    """What a directory there cannot have; empty if it can have all."""
    try:
        os.mkdir(trial, 0o700)
    except OSError as error:
        return f"takes no new directory: {error.strerror}"
    try:
        for what, attempt in (
            ("takes no device nodes, as a deleted file needs one", _make_whiteout),
            ("has no trusted attributes, as a replaced directory needs one", _make_opaque),
        ):
            try:
                attempt(trial)
            except OSError:
                return what
        return "does not tell upper from lower case" if _folds_case(trial) else ""
    finally:
        if os.path.lexists(f"{trial}/w"):
            os.unlink(f"{trial}/w")
        os.rmdir(trial)


def _make_whiteout(trial: str) -> None:
    os.mknod(f"{trial}/w", _S_IFCHR, 0)


def _make_opaque(trial: str) -> None:
    os.setxattr(trial, "trusted.overlay.opaque", b"y")


def _folds_case(trial: str) -> bool:
    import fcntl

    handle = os.open(trial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = fcntl.ioctl(handle, _FS_IOC_GETFLAGS, bytes(8))
    except OSError:
        return False
    finally:
        os.close(handle)
    return bool(int.from_bytes(flags[:4], "little") & _CASEFOLD)
