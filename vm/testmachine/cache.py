"""Where the machine's parts are kept, each under a name that holds the hash of what it was made from.

A part is made in a directory beside its place and renamed into it, so a part that is there is whole; one lock a part
lets several makers wait for the first. What is no longer asked for stays until `vm/build --clean`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

VM = Path(__file__).resolve().parents[1]
PROJECT = VM.parent
CACHE = Path(os.environ.get("VM_CACHE") or VM / "cache")
MIRROR = os.environ.get("VM_MIRROR", "http://deb.debian.org/debian")


class MachineError(Exception):
    """The machine itself failed, not what was to run in it: one line that says how, for exit status 125."""


def say(text: str) -> None:
    """Tell what is being done, on standard error."""
    print(f"vm: {text}", file=sys.stderr, flush=True)


def need(programs: Iterable[str]) -> None:
    """Check that these programs are installed.

    Shape:   each `program` or `program (package)`
    Raises:  MachineError naming all that are missing and the command that installs them
    """
    missing = []
    for entry in programs:
        program, _, package = entry.partition(" (")
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        if not shutil.which(program, path=path):
            missing.append(package.rstrip(")") or program)
    if missing:
        raise MachineError(f"not installed here: apt-get install {' '.join(dict.fromkeys(missing))}")


def key_of(*parts: str | bytes | Path) -> str:
    """Twelve digits that stand for these words, bytes and files' contents."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()[:12]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The part of this name, made by `make` in an empty directory if it is not there yet.

    Returns: the part's directory below $VM_CACHE
    """
    place = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            # Of a maker that was killed.
            for left in CACHE.glob(f"part-{name}-*"):
                shutil.rmtree(left, ignore_errors=True)
            part = Path(tempfile.mkdtemp(prefix=f"part-{name}-", dir=CACHE))
            part.chmod(0o755)
            try:
                make(part)
                part.rename(place)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return place
