"""Paths with wildcards, matched while layers are walked, so that a walk goes only where a match can be.

    *  ?  [abc]   within one name, as a shell has them; **  any number of directories, none included

A pattern is taken from the image's root, with or without a leading slash.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    _Moves: TypeAlias = "tuple[Mark | None, dict[bytes, set[int]], list[tuple[Callable[[bytes], object], int]]]"

_MAGIC = re.compile(rb"[*?\[]")

Mark = frozenset[int]


class PathPattern:
    """A pattern; it is a stackwalk.Chooser whose mark is the set of parts that a path may have matched up to.

    Shape: is_fixed: every letter stands for itself
    """

    __slots__ = ("_matchers", "_moves", "_parts")

    def __init__(self, pattern: bytes, *, is_fixed: bool = False) -> None:
        parts = [part for part in pattern.split(b"/") if part not in (b"", b".")]
        self._parts: list[bytes] = []
        for part in parts:
            if part == b"..":
                del self._parts[-1:]
            else:
                self._parts.append(part)
        self._moves: dict[Mark, _Moves] = {}
        self._matchers: list[Callable[[bytes], object] | None] = [
            None if is_fixed else _matcher(part) for part in self._parts
        ]

    @property
    def is_literal(self) -> bool:
        """Whether this can match only one path."""
        return all(matcher is None for matcher in self._matchers)

    def _closure(self, states: set[int]) -> Mark:
        # `**` may stand for nothing at all.
        for state in sorted(states):
            while state < len(self._parts) and self._is_any(state):
                state += 1
                states.add(state)
        return frozenset(states)

    def _is_any(self, state: int) -> bool:
        return self._parts[state] == b"**" and self._matchers[state] is not None

    def start(self) -> Mark:
        """The mark of the root."""
        return self._closure({0})

    def names(self, mark: object) -> list[bytes] | None:
        """The only names that can match below, None when any might."""
        assert isinstance(mark, frozenset)
        states = [state for state in mark if state < len(self._parts)]
        if any(self._matchers[state] is not None for state in states):
            return None
        return list({self._parts[state] for state in states})

    def step(self, mark: object, name: bytes) -> Mark | None:
        """The mark of a name below."""
        assert isinstance(mark, frozenset)
        moves = self._moves.get(mark)
        if moves is None:
            moves = self._moves[mark] = self._moves_from(mark)
        stay, literals, matchers = moves
        found = literals.get(name)
        if found is None and not matchers:
            return stay
        states = set(found or ())
        states.update(stay or ())
        states.update(state + 1 for matcher, state in matchers if matcher(name))
        return self._closure(states) if states else None

    def _moves_from(self, mark: Mark) -> _Moves:
        """What a mark becomes: by any name, by certain names, and the tests for all others."""
        stay: set[int] = set()
        literals: dict[bytes, set[int]] = {}
        matchers: list[tuple[Callable[[bytes], object], int]] = []
        for state in mark:
            if state == len(self._parts):
                continue
            matcher = self._matchers[state]
            if self._is_any(state):
                stay.add(state)
            elif matcher is not None:
                matchers.append((matcher, state))
            else:
                literals.setdefault(self._parts[state], set()).add(state + 1)
        return self._closure(stay) if stay else None, literals, matchers

    def is_wanted(self, mark: object) -> bool:
        """Whether the whole pattern has matched."""
        assert isinstance(mark, frozenset)
        return len(self._parts) in mark


def _matcher(part: bytes) -> Callable[[bytes], object] | None:
    """A test for one name; None for a name without wildcards."""
    if not _MAGIC.search(part):
        return None
    import fnmatch

    return re.compile(fnmatch.translate(part.decode("latin-1")).encode("latin-1"), re.DOTALL).match
