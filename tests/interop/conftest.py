"""Fixtures for comparisons with engines: 20.10 on every push, newer ones by `sh tests/bootstrap engines`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Engine, end_engines, missing
from tests.interop.engines import RELEASES, NewEngine, Release, engine_of
from tests.leaks import scratch_prefix

# One line for each comparison of many cases, shown at the end of the run.
COMPARED: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was compared."""
    for line in COMPARED:
        terminalreporter.write_line(f"equal digests: {line}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `release` runs once for each; those beyond this machine's own carry the mark `engines`."""
    if "release" in metafunc.fixturenames:
        marks = {label: [pytest.mark.engines] if release.suite else [] for label, release in RELEASES.items()}
        parameters = [pytest.param(release, id=label, marks=marks[label]) for label, release in RELEASES.items()]
        metafunc.parametrize("release", parameters, scope="session")


@pytest.fixture(scope="session")
def new_engine_of() -> Iterator[NewEngine]:
    """Make engines of any release, each with a fresh root; all end with the session."""
    engines: list[Engine] = []

    def make(release: Release) -> Engine:
        if not release.suite and not Path("/usr/sbin/dockerd").exists():
            missing("docker.io is not installed")
        engines.append(engine_of(release, Path(tempfile.mkdtemp(prefix=scratch_prefix("mdengine"), dir="/dev/shm"))))
        return engines[-1]

    yield make
    end_engines(engines)


@pytest.fixture(scope="session")
def running(release: Release, new_engine_of: NewEngine, request: pytest.FixtureRequest) -> Engine:
    """One running engine of the release, shared by the session; tests remove what they make in it."""
    if not release.suite:
        shared: Engine = request.getfixturevalue("dockerd")
        return shared
    engine = new_engine_of(release)
    engine.start()
    return engine


@pytest.fixture
def spare(release: Release, new_engine_of: NewEngine) -> Iterator[Callable[[], Engine]]:
    """Make engines of the release for one test, which end with it."""
    engines: list[Engine] = []

    def make() -> Engine:
        engines.append(new_engine_of(release))
        return engines[-1]

    yield make
    end_engines(engines)
