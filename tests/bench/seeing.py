"""What looking costs: blame, who, explain and du beside find and du over the same image."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests import builders, real_images
from tests.bench.cases import Hall
from tests.bench.peers import Minidock, timed
from tests.bench.table import Case, Measure

# How much longer than find over all of its layers a look may take.
SECONDS_MORE = 1.0


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
