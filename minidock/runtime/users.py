"""Who a container's process is: `-u` and `--group-add`, resolved in the image's own passwd and group files.

The files belong to the image, so they are resolved beneath its root, must be regular and small, and their
numbers are checked like the caller's own.
Source: runc libcontainer/user/user.go, GetExecUser; moby daemon/oci_linux.go, WithUser
"""

from __future__ import annotations

import errno
import os

from minidock.errors import SyscallError, UsageError
from minidock.linux.paths import open_in_root, read_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_FILE_BYTES = 1 << 20
MAX_ID = (1 << 31) - 1
_RANGE = f"uids and gids must be in range 0-{MAX_ID}"


class User:
    """A resolved user.

    Shape: groups: the supplementary groups, gid first, as the engine has set them since CVE-2022-36109
    """

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: Sequence[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = list(groups)
        self.home = home


def _atoi(text: str) -> int | None:
    """A decimal number as Go's strconv.Atoi reads it, None for anything else."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        return None
    return int(text)


def _fields(root_fd: int, path: bytes) -> list[list[str]]:
    """The lines of a passwd or group file, split at colons; an absent file has none."""
    name = "/" + os.fsdecode(path)
    try:
        # Looked at before it is opened, since opening a device or a FIFO may already do something.
        probe = open_in_root(root_fd, path, os.O_PATH)
        regular = os.fstat(probe).st_mode & 0o170000 == 0o100000
        os.close(probe)
        if not regular:
            raise UsageError(f"the image's {name} is not a regular file")
        data = read_in_root(root_fd, path, MAX_FILE_BYTES + 1)
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"the image's {name} is larger than {MAX_FILE_BYTES} bytes")
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    return [line.split(":") for line in map(str.strip, lines) if line]


def _field(fields: list[str], number: int) -> str:
    return fields[number] if number < len(fields) else ""


def _number(fields: list[str], number: int) -> int:
    """A numeric field; what is no number counts as 0, as in the engine."""
    return _atoi(_field(fields, number)) or 0


def _checked(number: int) -> int:
    if not 0 <= number <= MAX_ID:
        raise UsageError(_RANGE)
    return number


def _group_by_name(groups: list[list[str]], word: str, message: str) -> int:
    """A gid from a group's name or number; raises UsageError with message."""
    wanted = _atoi(word)
    for fields in groups:
        if _field(fields, 0) == word or (wanted is not None and _number(fields, 2) == wanted):
            return _checked(_number(fields, 2))
    if wanted is None:
        raise UsageError(message)
    return _checked(wanted)


def resolve_user(root_fd: int, user: str, group_add: Sequence[str] = ()) -> User:
    """Resolve `user[:group]`, each a name or a number, and the additional groups.

    Shape:  an empty user is root; root_fd is the container's root directory
    Raises: UsageError with docker's words; never falls back to root
    """
    user_word, _, group_word = user.partition(":")
    users = _fields(root_fd, b"etc/passwd")
    uid_word = _atoi(user_word) if user_word else 0
    found = None
    for fields in users:
        if _number(fields, 2) == uid_word if uid_word is not None else _field(fields, 0) == user_word:
            found = fields
            break
    if found is not None:
        uid, gid = _checked(_number(found, 2)), _checked(_number(found, 3))
    elif uid_word is None:
        raise UsageError(f"unable to find user {user_word}: no matching entries in passwd file")
    else:
        uid, gid = _checked(uid_word), 0
    groups = _fields(root_fd, b"etc/group") if group_word or found is not None or group_add else []
    listed: list[int] = []
    if group_word:
        message = f"unable to find group {group_word}: no matching entries in group file"
        gid = _explicit_group(groups, group_word, message)
    elif found is not None and (name := _field(found, 0)):
        listed = [_checked(_number(fields, 2)) for fields in groups if name in _field(fields, 3).split(",")]
    for word in group_add:
        listed.append(_group_by_name(groups, word, f"Unable to find group {word}: no matching entries in group file"))
    home = next((_field(fields, 5) for fields in users if _number(fields, 2) == uid), "") or "/"
    return User(uid, gid, list(dict.fromkeys([gid, *listed])), home)


def _explicit_group(groups: list[list[str]], word: str, message: str) -> int:
    """The group of `user:group`: a number is a number even where a group has it as its name."""
    wanted = _atoi(word)
    if wanted is not None:
        return _checked(wanted)
    return _group_by_name(groups, word, message)
