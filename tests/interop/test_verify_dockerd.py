"""verify on roots that Docker's engine wrote, running or stopped: odd layers are whole, damage is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from minidock.store.root import DataRoot
from minidock.verbs.verify import verify
from tests import builders, layer_cases
from tests.conftest import Engine
from tests.integration.test_bad_roots import tool

SCRIPT = (
    "mkdir /new && echo one >/new/one && ln /new/one /new/two && ln -s one /new/link && rm -r /data/deep /bin/cat; "
    "rm -r /etc && mkdir /etc && echo again >/etc/again; chmod 4750 /data/two; chown 5:6 /data/two; mkfifo /new/fifo; "
    "touch -d '2001-02-03 04:05:06' /new; dd if=/dev/urandom of=/new/big bs=1000 count=3000 2>/dev/null"
)


@pytest.fixture(scope="module")
def images(dockerd: Engine, busybox_archive: Path, session_scratch: Path) -> list[str]:
    """Images that a running engine loaded and committed."""
    specs = [
        builders.ImageSpec([layer], tags=[f"odd:{number}"])
        for number, (label, layer) in enumerate(layer_cases.OK.items())
        if label not in layer_cases.OWN_TAR_SPLIT and b"GNU.sparse" not in layer
    ]
    dockerd.docker("load", "-i", busybox_archive)
    dockerd.docker("load", "-i", builders.docker_archive(session_scratch / "odd.tar", *specs))
    dockerd.docker("run", "--name", "changer", "--network", "none", "busybox:test", "sh", "-c", SCRIPT)
    dockerd.docker("commit", "changer", "changed:1")
    dockerd.docker("rm", "changer")
    return [tag for spec in specs for tag in spec.tags] + ["busybox:test", "changed:1"]


def test_what_a_running_engine_stored_is_whole(dockerd: Engine, images: list[str]) -> None:
    before = os.listdir(dockerd.root)
    with DataRoot.open(str(dockerd.root), write=False) as root:
        found = verify(root, images)
    told = [(image.names, finding.path, finding.detail) for image in found.images for finding in image.findings]
    told += [
        (image.names, finding.path, finding.detail)
        for image in found.images
        for layer in image.layers
        for finding in layer.findings
    ]
    assert told == []
    assert len(found.images) == len(images) > 60
    assert os.listdir(dockerd.root) == before


def test_damage_that_docker_does_not_see_is_named(dockerd: Engine, images: list[str], scratch: Path) -> None:
    """A changed mode, owner and time, and a file too many: the engine's own save still gives the image out."""
    document = json.loads(dockerd.docker("inspect", "changed:1").stdout)[0]
    upper = Path(document["GraphDriver"]["Data"]["UpperDir"])
    status = os.stat(upper / "new/one")
    before = {name: os.stat(upper / name).st_mtime_ns for name in ("new", "data")}
    try:
        os.chmod(upper / "new/one", 0o600)
        (upper / "data/stranger").write_text("not of the image")
        for name, mtime_ns in before.items():
            os.utime(upper / name, ns=(mtime_ns, mtime_ns))
        dockerd.docker("save", "-o", scratch / "saved.tar", "changed:1")
        done = tool(dockerd.root, "verify", "-q", "changed:1")
        assert done.returncode == 1, done
        assert "new/one: has mode 0600 instead of 0644" in done.stdout
        assert "data/stranger: is not in the layer's tar" in done.stdout
        assert len(done.stdout.splitlines()) == 3, done.stdout
    finally:
        os.chmod(upper / "new/one", status.st_mode & 0o7777)
        (upper / "data/stranger").unlink()
        os.utime(upper / "data", ns=(before["data"], before["data"]))
    assert tool(dockerd.root, "verify", "-q", "changed:1").returncode == 0
