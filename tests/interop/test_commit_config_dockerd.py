"""The image config of a commit: equal to the engine's for every flag, and the engine takes the image over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minidock.store.root import DataRoot
from minidock.verbs.commit import commit
from tests.conftest import Engine
from tests.interop.engines import Release

FLAGS: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["-m", "a <message> & more", "-a", "Mé <me@x>"], {"message": "a <message> & more", "author": "Mé <me@x>"}),
]
CHANGES: list[list[str]] = [
    ['CMD ["echo", "a b"]'],
    ["CMD echo $HOME && true"],
    ["ENTRYPOINT exec top"],
    ['CMD ["x"]', 'ENTRYPOINT ["/bin/e", "1"]'],
    ['ENTRYPOINT ["/bin/e"]', "CMD x"],
    ['ENV A=1 B="two words" C=three\\ words', "ENV D=$A-${B}-${UNSET:-none}-${A:+set}", "ENV old way of it"],
    ["ENV PATH=/opt/bin:$PATH", "LABEL where=${PATH} 'single $PATH'=x"],
    ["EXPOSE 80 443/tcp 53/udp 8000-8002"],
    ['LABEL a.b="c d" e=f', "LABEL a.b=again"],
    ["ONBUILD RUN echo hi > /x", "onbuild copy . /src"],
    ["USER 1000:1000"],
    ['VOLUME ["/v1", "/v 2"]', "VOLUME /v3 /v4"],
    ["WORKDIR sub", "WORKDIR ../other//x", "ENV W=/abs", "WORKDIR $W/deep"],
    ["HEALTHCHECK --interval=5m --timeout=3s --retries=2 --start-period=1m30s CMD curl -f http://localhost/ || exit 1"],
    ['HEALTHCHECK CMD ["true"]', "HEALTHCHECK NONE"],
    ["# a comment", "ENV a=1 \\", "b=2"],
]


def config_of(raw: bytes, engine: str) -> dict[str, Any]:
    """An image config without what must differ between two commits."""
    document: dict[str, Any] = json.loads(raw)
    assert document["created"] == document["history"][-1]["created"]
    assert document.pop("docker_version").startswith(engine)
    del document["created"], document["history"][-1]["created"]
    return document


def raw_config(root: Path, image_id: str) -> bytes:
    return (root / "image/overlay2/imagedb/content/sha256" / image_id.removeprefix("sha256:")).read_bytes()


def test_configs_equal_dockers_and_docker_takes_the_images_over(
    spare: Callable[[], Engine], release: Release, scratch: Path, busybox_archive: Path
) -> None:
    engine = spare()
    engine.start()
    engine.docker("load", "-i", busybox_archive)
    words = ("-e", "HOME=/root", "-e", "A=0", "--label", "own=1", "-w", "/data", "--name", "source")
    name = engine.docker("create", "--network", "none", *words, "busybox:test", "sh", "-c", "echo <x> & true").stdout
    container = name.strip()
    upper = json.loads(engine.docker("inspect", container).stdout)[0]["GraphDriver"]["Data"]["UpperDir"]
    Path(upper, "added").write_text("added\n")
    wanted: list[tuple[list[str], dict[str, Any], bytes]] = []
    for flags, options in FLAGS:
        image = engine.docker("commit", *flags, container).stdout.strip()
        wanted.append(([], options, raw_config(engine.root, image)))
    for changes in CHANGES:
        flags = [word for change in changes for word in ("-c", change)]
        image = engine.docker("commit", *flags, container).stdout.strip()
        wanted.append((changes, {}, raw_config(engine.root, image)))
    engine.stop()

    with DataRoot.open(str(engine.root)) as root:
        layers = root.layers.all()
        for changes, options, raw in wanted:
            result = commit(root, "source", changes=changes, engine=release.label, **options)
            ours = root.images.get(result.image_id).raw
            assert config_of(ours, release.label) == config_of(raw, release.label), changes
            # Not only equal values: the same bytes but for the times and the version.
            assert list(json.loads(ours)) == list(json.loads(raw))
            assert list(json.loads(ours)["config"]) == list(json.loads(raw)["config"])
        assert root.layers.all() == layers, "the same upper directory gives the layer that is there already"
        Path(upper, "added-later").write_text("later\n")
        last = commit(root, "source", "taken:over", message="by minidock", engine=release.label)

    engine.start()
    history = engine.docker("history", "--no-trunc", "--format", "{{.Comment}}|{{.CreatedBy}}", "taken:over").stdout
    assert history.splitlines()[0] == "by minidock|sh -c echo <x> & true"
    assert engine.docker("inspect", "-f", "{{.Id}}", "taken:over").stdout.strip() == last.image_id
    engine.docker("save", "-o", scratch / "saved.tar", "taken:over")
    shown = engine.docker("run", "--rm", "--network", "none", "taken:over", "cat", "/added", "/added-later").stdout
    assert shown == "added\nlater\n"
    engine.docker("rm", "source")
    engine.docker("rmi", "taken:over")
    engine.stop()
