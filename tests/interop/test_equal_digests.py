"""Hundreds of random upper directories, committed by Docker's engine and by minidock: equal diff_ids and chain_ids.

One root, handed over twice: the engine makes the containers, commits them and forgets the images; minidock commits the
same containers; the engine gives minidock's layers back by `docker save`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from minidock.store.root import DataRoot
from minidock.verbs.commit import commit
from minidock.verbs.diff import diff
from tests import builders
from tests.conftest import Engine
from tests.integration.test_changes import Upper, random_upper
from tests.interop.conftest import COMPARED
from tests.interop.dockerapi import DockerAPI
from tests.interop.engines import Release
from tests.interop.test_commit_dockerd import EMPTY, base_image
from tests.interop.uppers import Script

KERNEL_MADE = 240
HAND_MADE = 80


class OfContainer(Upper):
    """A container's own upper directory, filled by hand with what random scripts seldom reach."""

    def __init__(self, path: str) -> None:
        self.root = os.fsencode(path)


class Case:
    """One container, what was done to it, and what each side makes of it."""

    def __init__(self, api: DockerAPI, seed: int) -> None:
        self.seed = seed
        wanted = {"Image": "commitbase:1", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
        self.id: str = api("POST", "/containers/create", wanted)["Id"]
        self.data: dict[str, str] = api("GET", f"/containers/{self.id}/json")["GraphDriver"]["Data"]
        self.done: list[str] = []
        self.layers: list[str] = []
        self.changes: list[str] = []
        self.our_layers: list[str] = []

    def change(self, merged: Path) -> None:
        """Fill the upper directory: through a mount, or by hand."""
        source = random.Random(self.seed)
        if self.seed >= KERNEL_MADE:
            random_upper(OfContainer(self.data["UpperDir"]), source)
            self.done = ["by hand"]
            return
        options = "index=off,redirect_dir=off,metacopy=off"
        for word, key in (("lowerdir", "LowerDir"), ("upperdir", "UpperDir"), ("workdir", "WorkDir")):
            options += f",{word}={self.data[key]}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], check=True)
        try:
            script = Script(os.fsencode(merged), source)
            script.run(source.choice((1, 3, 10, 25, 40)))
            self.done = script.done
        finally:
            subprocess.run(["umount", str(merged)], check=True)

    def docker(self, api: DockerAPI) -> None:
        """What the engine says of it; its image goes at once, so that minidock finds no layer made."""
        image = api("POST", f"/commit?container={self.id}")["Id"]
        self.layers = api("GET", f"/images/{image}/json")["RootFS"]["Layers"]
        api("DELETE", f"/images/{image}")
        kinds = ("C", "A", "D")
        self.changes = sorted(
            f"{kinds[change['Kind']]} {change['Path']}" for change in api("GET", f"/containers/{self.id}/changes") or ()
        )

    def ours(self, root: DataRoot, engine: str) -> str:
        """What minidock says of it. Returns: the image's ID"""
        changes = [f"{change.kind} {change.path}" for change in diff(root, self.id)]
        # JSON cannot carry bytes that are not UTF-8, so docker shows U+FFFD.
        assert sorted(os.fsencode(line).decode("utf-8", "replace") for line in changes) == self.changes, self
        made = commit(root, self.id, engine=engine)
        config = root.images.get(made.image_id).config
        self.our_layers = [str(diff_id) for diff_id in config.diff_ids]
        assert made.chain_id == chain_id(self.layers), self
        assert root.layers.has(made.chain_id)
        return str(made.image_id)

    def __repr__(self) -> str:
        return f"case {self.seed}: {' '.join(self.done)}"


def chain_id(diff_ids: list[str]) -> str:
    """The chain of layers, computed by its definition."""
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = builders.sha256(f"{chain} {diff_id}".encode())
    return chain


def saved_layers(archive: Path) -> tuple[set[str], list[list[str]]]:
    """What `docker save` wrote: the digests of all its files, and each image's diff_ids."""
    digests = set()
    configs: dict[str, Any] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile():
                file = tar.extractfile(member)
                assert file is not None
                data = file.read()
                digests.add("sha256:" + sha256(data).hexdigest())
                if member.name.endswith(".json") or member.size < 65536:
                    configs[member.name] = data
        manifest = json.loads(configs["manifest.json"])
    return digests, [json.loads(configs[image["Config"]])["rootfs"]["diff_ids"] for image in manifest]


@pytest.fixture
def engine(spare: Callable[[], Engine], scratch: Path) -> Engine:
    engine = spare()
    engine.start()
    engine.docker("load", "-i", builders.docker_archive(scratch / "base.tar", base_image()))
    return engine


def test_random_uppers(engine: Engine, release: Release, scratch: Path) -> None:
    merged = scratch / "merged"
    merged.mkdir()
    api = DockerAPI(engine.socket)
    cases = []
    for seed in range(KERNEL_MADE + HAND_MADE):
        case = Case(api, seed)
        case.change(merged)
        case.docker(api)
        cases.append(case)
    api.close()
    engine.stop()
    with DataRoot.open(str(engine.root)) as root:
        images = {case.ours(root, release.label): case for case in cases}
    wrong = [case for case in cases if case.our_layers != case.layers]
    assert not wrong, f"{len(wrong)} of {len(cases)} differ: {wrong[:3]}"
    changed = [case for case in cases if len(case.layers) > len(base_image().layers)]
    assert len({case.layers[-1] for case in changed}) >= 300
    assert EMPTY not in {layer for case in cases for layer in case.our_layers}
    COMPARED.append(f"{len(cases)} random uppers, {len(changed)} layers: Docker {release}, dialect {release.dialect}")
    # The engine rebuilds each layer from the tar-split and directory that minidock wrote, and checks the digest.
    engine.start()
    engine.docker("save", "-o", scratch / "saved.tar", *images)
    digests, diff_ids = saved_layers(scratch / "saved.tar")
    assert sorted(diff_ids) == sorted(case.layers for case in images.values())
    assert digests >= {layer for case in changed for layer in case.layers}
