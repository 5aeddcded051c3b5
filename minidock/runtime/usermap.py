"""Which IDs of the host a container's are, with `--userns remap[:USER]`: from /etc/subuid and subgid, at each start.

On the disk, and so in every image and commit, IDs are the container's own; the mounts translate (see runtime.remapped).
Source: dockerd's userns-remap; subuid(5)
"""

from __future__ import annotations

import os

from minidock.errors import InvalidOption, SyscallError, UsageError
from minidock.formats.subids import IdMap, parse_id_map, subordinate_map
from minidock.store.transaction import read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.runtime.users import User

WORD = "remap"
# The user of docker's `--userns-remap=default`.
DEFAULT_USER = "dockremap"
_FILES = ("/etc/subuid", "/etc/subgid")
_S_IFIFO, _S_IFMT = 0o010000, 0o170000
_MAX_BYTES = 1 << 20


class UserMap:
    """The maps of both kinds of IDs."""

    __slots__ = ("gids", "uids")

    def __init__(self, uids: IdMap, gids: IdMap) -> None:
        self.uids = uids
        self.gids = gids

    def root(self) -> tuple[int, int]:
        """uid and gid on the host of the container's root."""
        return self.uids.outside(0), self.gids.outside(0)

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """An owner as the host sees it; raises UsageError for one that the container cannot have."""
        mapped = self.uids.outside(uid), self.gids.outside(gid)
        if -1 in mapped:
            raise UsageError(f"{uid}:{gid} is beyond the IDs of the container's user namespace")
        return mapped

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """An owner as the container sees it, the overflow IDs for one from outside."""
        mapped = self.uids.inside(uid), self.gids.inside(gid)
        return mapped[0] if mapped[0] >= 0 else OVERFLOW, mapped[1] if mapped[1] >= 0 else OVERFLOW

    def check(self, user: User) -> None:
        """Make sure that a process can be this user; raises UsageError."""
        for kind, ids, numbers in (("user", self.uids, [user.uid]), ("group", self.gids, [user.gid, *user.groups])):
            for number in numbers:
                if ids.outside(number) < 0:
                    raise UsageError(f"{kind} {number} is beyond the IDs of the container's user namespace")

    def give_streams(self, standard: Sequence[int]) -> None:
        """Let the container's root own the pipes that become its standard streams, for it to open /dev/stdout."""
        uid, gid = self.root()
        for handle in standard:
            if os.fstat(handle).st_mode & _S_IFMT == _S_IFIFO:
                os.fchown(handle, uid, gid)


# What stat(2) shows for an ID that is not mapped. Source: proc(5), /proc/sys/kernel/overflowuid
OVERFLOW = 65534


def parse_mode(mode: str) -> str:
    """The user whose subordinate IDs are meant, empty for the host's own IDs; raises UsageError."""
    if mode in ("", "host"):
        return ""
    word, colon, user = mode.partition(":")
    if word != WORD or (colon and not user):
        raise InvalidOption("--userns: invalid USER mode", hint="host, remap or remap:USER")
    return user or DEFAULT_USER


def read_user_map(mode: str) -> UserMap | None:
    """The maps that a container's UsernsMode asks for, None for none; raises UsageError."""
    user = parse_mode(mode)
    if not user:
        return None
    names = _names(user)
    maps = []
    for path in _FILES:
        try:
            text = read_small(path, _MAX_BYTES)
        except OSError as error:
            raise UsageError(f"--userns: {path}: {(error.strerror or '').lower()}") from None
        maps.append(subordinate_map(text, names, what=path))
    return UserMap(*maps)


def _names(user: str) -> set[str]:
    """What a line of /etc/subuid may call the user: its name and its number."""
    import pwd

    try:
        found = pwd.getpwuid(int(user)) if user.isascii() and user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return {user}
    return {user, found.pw_name, str(found.pw_uid)}


def user_map_of(pid: int) -> UserMap:
    """The maps of a process's user namespace; raises SyscallError, FormatError."""
    try:
        texts = [read_small(f"/proc/{pid}/{name}") for name in ("uid_map", "gid_map")]
    except OSError as error:
        raise SyscallError(f"read /proc/{pid}/uid_map", error.errno or 3) from None
    return UserMap(*map(parse_id_map, texts))
