"""CI's legs of vm/matrix in the background of a whole session: emulated machines take minutes, on a core of theirs.

Started with the session's first test, if the test that judges them is among those to be run; that one is the last.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import outside

PROJECT = Path(__file__).resolve().parents[2]
# For both, and for the image and kernels that they need, on a machine that is busy with all other tests.
LIMIT_S = 3000


class Legs:
    """The running matrix.

    Shape: out: one directory for each leg, with its report and output
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        # After all others: tests that wait for something should not have to wait for these.
        words = ["nice", "-n", "5", *outside(), str(PROJECT / "vm/matrix"), "--ci", "--at-once", "1", "--out", str(out)]
        with open(out / "lines", "wb") as lines, open(out / "errors", "wb") as errors:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=lines, stderr=errors)

    def wait(self) -> tuple[int, str, str]:
        """Its exit status, its lines and what it said beside them, once both legs have ended."""
        code = self._process.wait(LIMIT_S)
        return code, (self.out / "lines").read_text(), (self.out / "errors").read_text()

    def end(self) -> None:
        """End it if it still runs; it ends its machines."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)


@pytest.fixture(scope="session", autouse=True)
def legs_of_ci(request: pytest.FixtureRequest, nothing_is_left: None) -> Iterator[Legs | None]:
    """The legs in the background; None where no test asks for them."""
    if not any(item.get_closest_marker("matrix") for item in request.session.items):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="minidock-legs-") as out:
        legs = Legs(Path(out))
        yield legs
        legs.end()
