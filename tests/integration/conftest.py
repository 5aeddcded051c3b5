"""Fixtures for tests that run containers by the real command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.tool import Tool


@pytest.fixture
def tool(scratch: Path, busybox_archive: Path) -> Iterator[Tool]:
    """minidock on a fresh root with busybox:test; at the end nothing of its containers may be left."""
    made = Tool(scratch / "root", busybox_archive)
    yield made
    made.close()
