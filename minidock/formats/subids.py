"""/etc/subuid and /etc/subgid, and the maps of a user namespace that are made of them.

Source: subuid(5); user_namespaces(7), "User and group ID mappings"; moby pkg/idtools, createIDMap
"""

from __future__ import annotations

from minidock.errors import FormatError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

# The kernel takes no more lines in one map.
MAX_EXTENTS = 340
_MAX_ID = (1 << 32) - 2


class IdMap:
    """Which IDs inside a user namespace are which outside. Shape: extents: (first inside, first outside, count)"""

    __slots__ = ("extents",)

    def __init__(self, extents: Sequence[tuple[int, int, int]]) -> None:
        self.extents = list(extents)

    def outside(self, inside: int) -> int:
        """The ID on the host, -1 for one that has none."""
        for first, host, count in self.extents:
            if first <= inside < first + count:
                return host + inside - first
        return -1

    def inside(self, outside: int) -> int:
        """The ID in the namespace, -1 for one that is not mapped there."""
        for first, host, count in self.extents:
            if host <= outside < host + count:
                return first + outside - host
        return -1

    def lines(self) -> bytes:
        """What is written to /proc/PID/uid_map."""
        return b"".join(b"%d %d %d\n" % extent for extent in self.extents)

    def describe(self) -> str:
        """The ranges as mount(8) and unshare(1) take them."""
        return " ".join(f"{first}:{host}:{count}" for first, host, count in self.extents)


def parse_id_map(text: bytes) -> IdMap:
    """Read /proc/PID/uid_map; raises FormatError."""
    extents = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != 3 or not all(word.isdigit() for word in words):
            raise FormatError(f"not a line of an ID map: {line[:80]!r}")
        extents.append((int(words[0]), int(words[1]), int(words[2])))
    return IdMap(extents)


def subordinate_map(text: bytes, names: Collection[str], *, what: str) -> IdMap:
    """The ranges of one user, lowest first, as one run of IDs from 0 on.

    Shape:  names: the user's name and its number, either of which a line may have; what: the file's name
    Raises: UsageError for a file without a usable range
    """
    ranges = set()
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        fields = line.strip().split(":")
        if len(fields) != 3 or fields[0] not in names:
            continue
        if not (fields[1].isascii() and fields[1].isdecimal() and fields[2].isascii() and fields[2].isdecimal()):
            raise UsageError(f"{what}: not a range of IDs: {line[:80]!r}")
        start, count = int(fields[1]), int(fields[2])
        if not 0 < start <= start + count - 1 <= _MAX_ID:
            raise UsageError(f"{what}: not a range of IDs that may be given away: {line[:80]!r}")
        ranges.add((start, count))
    extents: list[tuple[int, int, int]] = []
    inside, end = 0, 0
    for start, count in sorted(ranges):
        if start < end:
            raise UsageError(f"{what}: the ranges of {min(names)} overlap at {start}")
        extents.append((inside, start, count))
        inside, end = inside + count, start + count
    if not extents:
        name = min(names, key=lambda word: (word.isdecimal(), word))
        raise UsageError(
            f"{what} has no range of IDs for {name}",
            hint=f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}",
        )
    if len(extents) > MAX_EXTENTS:
        raise UsageError(f"{what} has {len(extents)} ranges for one user, more than the kernel's {MAX_EXTENTS}")
    return IdMap(extents)
