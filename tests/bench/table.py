"""Rounds, medians, ratios, and the table they end in."""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable

# One measurement of a contender in a given round: wall seconds.
Measure = Callable[[int], float]

COLUMNS = ("case", "minidock", "peer", "its time", "ratio", "bar", "")


class Case:
    """One thing measured: minidock and its peers, and the ratio that each peer sets as the bar."""

    def __init__(self, name: str, contenders: dict[str, Measure], bars: dict[str, float], rounds: int) -> None:
        self.name = name
        self.contenders = contenders
        self.bars = bars
        self.rounds = rounds

    def rows(self, rounds: int | None = None) -> list[tuple[str, ...]]:
        """Measure in interleaved rounds, in another order each time; one row for each peer."""
        times: dict[str, list[float]] = {name: [] for name in self.contenders}
        for number in range(rounds or self.rounds):
            order = list(self.contenders)
            random.shuffle(order)
            for name in order:
                times[name].append(self.contenders[name](number))
        medians = {name: statistics.median(values) for name, values in times.items()}
        rows: list[tuple[str, ...]] = []
        for peer, bar in self.bars.items():
            pairs = zip(times["minidock"], times[peer], strict=True)
            ratio = statistics.median(ours / theirs for ours, theirs in pairs)
            verdict = "ok" if ratio <= bar else "MISSED"
            ours, theirs = (spell_seconds(medians[name]) for name in ("minidock", peer))
            rows.append((self.name, ours, peer, theirs, f"{ratio:.2f}", f"{bar:.2f}", verdict))
        return rows


def spell_seconds(seconds: float) -> str:
    """A time as people read it."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def print_rows(rows: list[tuple[str, ...]], *, header: bool) -> None:
    """Print rows of the table, each as soon as it is known."""
    widths = (34, 9, 22, 9, 6, 6, 6)
    for row in ([COLUMNS] if header else []) + rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()
