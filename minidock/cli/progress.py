"""Progress on a terminal: one line a layer, redrawn in place; elsewhere nothing."""

from __future__ import annotations

import os
import time

from minidock.cli.output import escape_controls, short_id, write
from minidock.cli.times import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.trace import Progress

_BAR = 50
_REDRAW_S = 0.05


def progress_for(descriptor: int = 1, *, quiet: bool = False) -> Progress | None:
    """A progress reporter for a terminal, None when nobody watches."""
    if quiet or not os.isatty(descriptor):
        return None
    return _Lines(descriptor)


def bar(done: int, total: int) -> str:
    """docker's bar: `[=====>     ]  1.2MB/4MB`."""
    if total <= 0:
        return human_size(done)
    filled = min(_BAR, done * _BAR // total)
    return f"[{'=' * filled}>{' ' * (_BAR - filled)}]  {human_size(done, 4)}/{human_size(total, 4)}"


class _Lines:
    """A block of lines at the bottom of the terminal; each layer keeps the line it first took."""

    __slots__ = ("_descriptor", "_drawn", "_places", "_states")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._places: dict[str, int] = {}
        self._states: dict[str, str] = {}
        self._drawn = 0.0

    def __call__(self, key: str, state: str, done: int, total: int) -> None:
        now = time.monotonic()
        same = self._states.get(key) == state
        if same and now - self._drawn < _REDRAW_S and done < total:
            return
        self._drawn = now
        self._states[key] = state
        text = f"{escape_controls(short_id(key))}: {state}"
        if done and total and state == "Extracting":
            text += " " + bar(done, total)
        self._draw(key, self._fitting(text))

    def _draw(self, key: str, text: str) -> None:
        if key not in self._places:
            self._places[key] = len(self._places)
            write(text + "\n", self._descriptor)
            return
        up = len(self._places) - self._places[key]
        write(f"\x1b[{up}A\r\x1b[2K{text}\x1b[{up}B\r", self._descriptor)

    def _fitting(self, text: str) -> str:
        # A line that wraps would spoil the count of lines.
        try:
            columns = os.get_terminal_size(self._descriptor).columns
        except OSError:
            return text
        return text[: columns - 1] if columns > 1 else text
