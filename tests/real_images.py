"""The real images that tests and benchmarks use, made once on this machine and kept between runs.

Nothing is downloaded but Debian packages: a minbase Debian by mmdebstrap, nine layers on top of it that a real
engine makes with apt, and three made shapes (100,000 small files, one 1 GB file, 120 layers).
Kept in $MINIDOCK_TEST_CACHE (default /var/tmp/minidock-tests).
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from tests import builders
from tests.netns import outside

CACHE = Path(os.environ.get("MINIDOCK_TEST_CACHE", "/var/tmp/minidock-tests"))
PACKAGES = ("python3-minimal", "gcc", "git", "vim", "cmake", "make", "perl", "curl", "strace")


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    target = CACHE / name
    with open(CACHE / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            part = CACHE / f"part-{name}"
            part.unlink(missing_ok=True)
            make(part)
            part.rename(target)
    return target


def minbase_rootfs() -> Path:
    """A minbase Debian as a plain rootfs tar, about 170 MB."""

    def make(part: Path) -> None:
        words = ["mmdebstrap", "--variant=minbase", "--mode=root", "--format=tar", "bookworm"]
        builders.run_command(*outside(), *words, part)

    return _cached("minbase-rootfs.tar", make)


def _save(part: Path, layers: list[Path], reference: str) -> None:
    """Write a docker-save archive of layer tars on disk, without reading one into memory."""
    diff_ids = []
    for layer in layers:
        digest = sha256()
        with open(layer, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        diff_ids.append("sha256:" + digest.hexdigest())
    config = builders.image_config(diff_ids)
    config_name = sha256(config).hexdigest() + ".json"
    with tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as archive:
        names = []
        for number, layer in enumerate(layers):
            names.append(f"{number:064x}/layer.tar")
            archive.add(layer, names[-1])
        manifest = json.dumps([{"Config": config_name, "RepoTags": [reference], "Layers": names}]).encode()
        for name, data in ((config_name, config), ("manifest.json", manifest)):
            with tempfile.TemporaryFile() as stream:
                stream.write(data)
                stream.seek(0)
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, stream)


def minbase() -> Path:
    """docker-save archive `minbase:1`: Debian as one layer."""
    return _cached("minbase.tar", lambda part: _save(part, [minbase_rootfs()], "minbase:1"))


def ten_layers() -> Path:
    """docker-save archive `ten:10` of a real engine: minbase and nine layers installed with apt, about 580 MB."""

    def make(part: Path) -> None:
        from tests.conftest import Engine

        base = Path(tempfile.mkdtemp(prefix="mdimages-", dir="/dev/shm"))
        engine = Engine(base)
        engine.prefix = outside()
        engine.start()
        try:
            engine.docker("import", minbase_rootfs(), "minbase:1")
            image = "minbase:1"
            for number, package in enumerate(PACKAGES, 2):
                script = (
                    "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "
                    f"--no-install-recommends {package} && apt-get clean && rm -rf /var/lib/apt/lists/*"
                )
                engine.docker("run", "--network", "host", "--name", f"c{number}", image, "sh", "-c", script)
                image = f"ten:{number}"
                engine.docker("commit", f"c{number}", image)
                engine.docker("rm", f"c{number}")
            engine.docker("save", "-o", part, image)
        finally:
            engine.stop()
            for line in Path("/proc/self/mountinfo").read_text().splitlines():
                if line.split()[4].startswith(str(base)):
                    subprocess.run(["umount", "-l", line.split()[4]], check=False)
            subprocess.run(["rm", "-rf", base], check=False)

    return _cached("ten.tar", make)


def _made(name: str, reference: str, write_layers: Callable[[Path], list[Path]]) -> Path:
    def make(part: Path) -> None:
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            _save(part, write_layers(Path(folder)), reference)

    return _cached(name, make)


def many_files() -> Path:
    """docker-save archive `many:1`: 100,000 small files in 1,000 directories."""

    def write(folder: Path) -> list[Path]:
        layer = folder / "layer.tar"
        with open(layer, "wb") as out:
            for number in range(100_000):
                if number % 100 == 0:
                    out.write(builders.directory(b"d%03d" % (number // 100)))
                data = b"%d\n" % number * (1 + number % 300)
                out.write(builders.tar_member(b"d%03d/f%05d" % (number // 100, number), data))
            out.write(builders.END)
        return [layer]

    return _made("many.tar", "many:1", write)


def big_file() -> Path:
    """docker-save archive `big:1`: one file of 1 GB that does not compress."""

    def write(folder: Path) -> list[Path]:
        layer = folder / "layer.tar"
        with open(layer, "wb") as out:
            out.write(builders.tar_header(b"big", size=1 << 30))
            for _ in range(1 << 10):
                out.write(os.urandom(1 << 20))
            out.write(builders.END)
        return [layer]

    return _made("big.tar", "big:1", write)


def deep_stack() -> Path:
    """docker-save archive `deep:1` of 120 layers: busybox and 119 that each add a file and change a shared one."""

    def write(folder: Path) -> list[Path]:
        layers = [folder / "000.tar"]
        layers[0].write_bytes(builders.busybox_layer())
        for number in range(1, 120):
            layers.append(folder / f"{number:03d}.tar")
            layers[-1].write_bytes(
                builders.layer_tar(
                    builders.tar_member(b"n%03d" % number, b"%d\n" % number),
                    builders.tar_member(b"latest", b"%d\n" % number),
                )
            )
        return layers

    return _made("deep.tar", "deep:1", write)
