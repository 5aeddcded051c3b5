"""--explain: each real step on standard error, as it happens.

A line is `# kind  what`; a mount, a clone, an exec or a change of networks is a line for the shell, its kind in a
comment behind it. Each says what one step does; the whole is no script, since some steps hold descriptors that a shell
has not.
"""

from __future__ import annotations

from minidock.cli.output import write_error

_REPLAYABLE = ("mount", "clone", "exec", "network")


def trace(kind: str, text: str) -> None:
    """Show one step; the signature of minidock.trace.Trace."""
    if kind in _REPLAYABLE:
        write_error(f"{text}  # {kind}")
    else:
        write_error(f"# {kind:<6} {text}")
