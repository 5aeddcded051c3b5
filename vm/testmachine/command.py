"""Running the programs that make a part, with what they said shown when they fail."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from testmachine.cache import MachineError


def run(*words: str | Path, **options: Any) -> str:
    """Run a program to its end.

    Returns: its standard output
    Raises:  MachineError with the last lines of what it said
    """
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    try:
        done = subprocess.run([str(word) for word in words], stderr=subprocess.PIPE, text=True, **options)
    except FileNotFoundError as error:
        raise MachineError(f"{error.filename} is not installed here") from None
    if done.returncode:
        said = "\n".join((done.stderr + (done.stdout or "")).strip().splitlines()[-15:])
        raise MachineError(f"{' '.join(map(str, words[:3]))} … ended with {done.returncode}:\n{said}")
    return done.stdout or ""
