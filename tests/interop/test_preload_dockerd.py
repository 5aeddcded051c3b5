"""A root made reproducibly, before any engine ran there, is an engine's own at its first start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import builders
from tests.conftest import Engine
from tests.integration.tool import command


@pytest.mark.parametrize("word", ["--reproducible", "-q"])
def test_the_engine_takes_a_preloaded_root(
    spare: Callable[[], Engine], scratch: Path, busybox_layer: bytes, word: str
) -> None:
    upper = builders.layer_tar(builders.tar_member(b"a/b/c", b"deep"), builders.tar_member(b"etc/.wh.group", b""))
    image = builders.ImageSpec([busybox_layer, upper], tags=["app:1"])
    archive = builders.docker_archive(scratch / "app.tar", image)
    engine = spare()
    builders.run_command(*command("--root", engine.root, "pull-tar", "-q", word, archive))
    engine.start()
    assert engine.docker("images", "-q", "--no-trunc").stdout == builders.sha256(image.config) + "\n"
    script = "cat /a/b/c; test ! -e /etc/group"
    shown = engine.docker("run", "--rm", "--network", "none", "app:1", "sh", "-c", script)
    assert shown.stdout == "deep"
    engine.docker("save", "-o", scratch / "saved.tar", "app:1")
    # Saving makes each layer's tar anew and checks it against its digest.
    assert (scratch / "saved.tar").stat().st_size > len(busybox_layer)
    assert engine.docker("info", "-f", "{{.Driver}} {{.Images}}").stdout == "overlay2 1\n"
    engine.docker("rmi", "app:1")
    engine.stop()
    assert [path.name for path in (engine.root / "overlay2").iterdir()] == ["l"]
