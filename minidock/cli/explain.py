"""--explain: each real step on standard error, as it happens.

A line is `# kind  what`, or, where a shell can take the step, a shell line with its kind in a comment behind it. The
lines of a container's start are a script: saved and given to sh, they make the same root of the same layers again, and
run the command in it.
"""

from __future__ import annotations

from minidock.cli.output import write_error
from minidock.trace import END, REPLAYED


def trace(kind: str, text: str) -> None:
    """Show one step; the signature of minidock.trace.Trace."""
    if kind == END:
        write_error(text)
    elif kind not in REPLAYED or text.startswith("# "):
        write_error(f"# {kind:<6} {text.removeprefix('# ')}")
    else:
        # A hash line says itself what comes out.
        write_error(text if kind == "hash" else f"{text}  # {kind}")
