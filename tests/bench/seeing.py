"""What looking costs: blame, who, explain and du beside find and du over the same image, and the memory it takes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests import builders, real_images
from tests.bench.cases import Hall
from tests.bench.peers import Minidock, anonymous_peak_bytes, timed
from tests.bench.table import Case, Measure

# How much longer than find over all of its layers a look may take.
SECONDS_MORE = 1.0


MEMORY_LIMIT_BYTES = 200 << 20
MANY_FILES = 1_000_000


def _million(path: Path, digit: bytes) -> Path:
    """A layer of a million empty files, 500 to a directory; those of two digits are other layers of the same names."""
    with open(path, "wb") as out:
        out.write(builders.directory(b"share"))
        for number in range(MANY_FILES):
            if number % 500 == 0:
                out.write(builders.directory(b"share/folder%04d" % (number // 500)))
            mode = 0o600 if digit == b"2" and number % 1000 == 7 else 0o644
            out.write(builders.tar_header(b"share/folder%04d/some-file-%07d" % (number // 500, number), mode=mode))
        out.write(builders.END)
    return path


def memory_rows(hall: Hall) -> Iterator[tuple[str, ...]]:
    """The peak of every command that only looks, on a root of two images of a million files each."""
    engine = Minidock(hall.fresh("million"))
    for digit in (b"1", b"2"):
        layer = _million(hall.fresh("million.tar"), digit)
        subprocess.run([*engine.words("pull-tar", "-q", "--name", f"million:{digit.decode()}", layer)], check=True)
        layer.unlink()
    told = json.loads(builders.run_command(*engine.words("explain", "--json", "million:1")).stdout)
    one = f"{told['layers'][0]['directory']}/diff/share/folder0007/some-file-0003507"
    looks: tuple[tuple[str, ...], ...] = (
        ("explain", "million:1"),
        ("blame", "million:1", "**"),
        ("who", one),
        ("diff", "million:1", "million:2"),
        ("diff", "--why", "million:1", "million:2"),
        ("timeline", "million:1"),
        ("du",),
        ("fsck",),
        ("gc", "--plan"),
        ("verify", "-q"),
    )
    for words in looks:
        peak = anonymous_peak_bytes(*engine.words(*words))
        verdict = "ok" if peak <= MEMORY_LIMIT_BYTES else "MISSED"
        shown = " ".join(word for word in words if "/" not in word)
        name = f"memory, {shown}, 2 million files"
        yield (name, f"{peak >> 20} MB", "", "", "", f"{MEMORY_LIMIT_BYTES >> 20} MB", verdict)
    engine.close()


def see_cases(hall: Hall) -> Iterator[Case]:
    """An image of ten layers and some 580 MB; the peer is find over its layers, plus what a look may take more."""
    engine = hall.engine(Minidock)
    timed(*engine.load(hall.copy(real_images.ten_layers())))
    reference = "ten:10"
    told = json.loads(builders.run_command(*engine.words("explain", "--json", reference)).stdout)
    layers = [engine.root / layer["directory"] / "diff" for layer in told["layers"]]

    def find(_: int) -> float:
        return timed("find", *layers, "-name", "nothing-of-this-name") + SECONDS_MORE

    looks: dict[str, tuple[str, ...]] = {
        "blame one path": ("blame", reference, "/etc/passwd"),
        "blame a name anywhere": ("blame", reference, "**/*.gz"),
        "blame every path": ("blame", reference, "**"),
        "who has a file": ("who", f"{told['layers'][0]['directory']}/diff/etc/passwd"),
        "explain": ("explain", reference),
    }
    for name, words in looks.items():
        contenders: dict[str, Measure] = {
            "minidock": lambda _, words=words: engine.run(*words),  # type: ignore[misc]
            "find + 1 s": find,
        }
        yield Case(f"{name}, 10 layers", contenders, {"find + 1 s": 1.0}, 9)
    account: dict[str, Measure] = {
        "minidock": lambda _: engine.run("du"),
        "du + 1 s": lambda _: timed("du", "-sx", engine.root) + SECONDS_MORE,
    }
    yield Case("du of the root, 10 layers", account, {"du + 1 s": 1.0}, 9)
