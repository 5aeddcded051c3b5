"""What --explain shows: one line for each real step, told by the code that takes it.

A room that changes something calls the trace right before it acts, with the words of that very action;
there is no second description that could drift from the first.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    # trace(kind, text): kind is one of KINDS, text one line; for those of REPLAYED a shell line, unless it begins
    # with "# ", which is for what no shell can do; for END the word that closes a here-document
    Trace: TypeAlias = Callable[[str, str], None]
    # progress(key, state, done, total): key names a layer, units are bytes, total 0 when unknown
    Progress: TypeAlias = Callable[[str, str, int, int], None]

REPLAYED = ("hash", "mount", "clone", "cgroup", "make", "exec", "network")
END = "end"
KINDS = ("read", "write", "link", "remove", "rule", "signal", END, *REPLAYED)
