"""What is measured: loading, running, listing, committing, saving.

Loads go to tmpfs, where the engines and not the disk are compared, and once to a fresh ext4 each round with the
time to sync: ext4 avoids inodes that were freed a moment ago, so a loop that extracts and deletes on one file
system measures the search for inodes. Hashes are openssl's; coreutils' sha256sum is several times slower and would
be too easy a peer.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests import builders, real_images
from tests.bench.peers import Docker, Minidock, Podman, timed, unmount_below
from tests.bench.table import Case, Measure

MAKE_FILES = {
    "1 file": "echo changed >/one",
    "1,000 files": "mkdir /many; i=0; while [ $i -lt 1000 ]; do echo $i >/many/$i; i=$((i+1)); done",
    "300 MB file": "dd if=/dev/urandom of=/big bs=1M count=300 2>/dev/null",
}


class Hall:
    """Where the contest takes place: a scratch directory on tmpfs and the engines, started when first needed."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.engines: dict[str, Minidock] = {}
        self.counter = 0

    def fresh(self, name: str) -> Path:
        """A path in the scratch directory that was not used before."""
        self.counter += 1
        return self.scratch / f"{name}-{self.counter}"

    def engine(self, kind: type[Minidock]) -> Minidock:
        """The engine of a kind."""
        if kind.name not in self.engines:
            self.engines[kind.name] = kind(self.scratch)
        return self.engines[kind.name]

    def copy(self, archive: Path) -> Path:
        """The archive on tmpfs."""
        target = self.scratch / archive.name
        if not target.exists():
            shutil.copyfile(archive, target)
        return target

    def close(self) -> None:
        """Stop every engine."""
        for engine in self.engines.values():
            engine.close()


def gzip_layers(archive: Path) -> Path:
    """The same docker-save archive with its layers in gzip -6, as registries hand them out; made once and kept."""

    def make(part: Path) -> None:
        with tarfile.open(archive) as source, tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as target:
            for member in source:
                stream = source.extractfile(member)
                if member.name.endswith("layer.tar") and stream:
                    packed = real_images.CACHE / "part-layer.gz"
                    with gzip.open(packed, "wb", 6) as out:
                        shutil.copyfileobj(stream, out, 1 << 20)
                    target.add(packed, member.name)
                    packed.unlink()
                else:
                    target.addfile(member, stream)

    return real_images._cached(f"gz-{archive.name}", make)


def _load(engine: Minidock, archive: Path, reference: str) -> Measure:
    def measure(_: int) -> float:
        seconds = timed(*engine.load(archive))
        engine.forget(reference)
        return seconds

    return measure


def _tar(hall: Hall, archive: Path, *after: str) -> Measure:
    """Extract the archive's only layer with tar, then run a further command on the layer."""
    layer = hall.scratch / f"layer-of-{archive.name}"

    def measure(_: int) -> float:
        if not layer.exists():
            _extract_layer(archive, layer)
        target = hall.fresh("tar")
        target.mkdir()
        seconds = timed("tar", "-xf", layer, "-C", target)
        if after:
            seconds += timed(*after, layer)
        shutil.rmtree(target)
        return seconds

    return measure


def _extract_layer(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as source:
        name = json.loads(source.extractfile("manifest.json").read())[0]["Layers"][0]  # type: ignore[union-attr]
        stream = source.extractfile(name)
        assert stream
        with open(target, "wb") as out:
            shutil.copyfileobj(stream, out, 1 << 20)


def load_cases(hall: Hall) -> Iterator[Case]:
    """pull-tar on tmpfs."""
    images: list[tuple[str, Callable[[], Path], str, dict[str, float], int]] = [
        ("load 163 MB", real_images.minbase, "minbase:1", {"docker": 0.20, "podman": 0.40, "tar -xf": 1.5}, 5),
        ("load ten layers", real_images.ten_layers, "ten:10", {"docker": 0.15, "podman": 0.35}, 3),
        (
            *("load ten layers, gzip", lambda: gzip_layers(real_images.ten_layers()), "ten:10"),
            *({"docker": 0.25, "podman": 0.45}, 3),
        ),
        ("load 100,000 files", real_images.many_files, "many:1", {"tar -xf": 2.0}, 5),
        ("load 1 GB file", real_images.big_file, "big:1", {"tar, then openssl": 0.8}, 5),
    ]
    kinds: dict[str, type[Minidock]] = {"docker": Docker, "podman": Podman}
    for name, make, reference, bars, rounds in images:
        archive = hall.copy(make())
        contenders = {"minidock": _load(hall.engine(Minidock), archive, reference)}
        for peer in bars:
            if peer in kinds:
                contenders[peer] = _load(hall.engine(kinds[peer]), archive, reference)
            else:
                contenders[peer] = _tar(hall, archive, *(("openssl", "sha256") if "openssl" in peer else ()))
        yield Case(name, contenders, bars, rounds)


def disk_cases(hall: Hall) -> Iterator[Case]:
    """pull-tar on a disk, the sync included: a fresh ext4 for each engine and round."""
    archive = hall.copy(real_images.minbase())

    def on_disk(kind: type[Minidock]) -> Measure:
        def measure(number: int) -> float:
            image = real_images.CACHE / f"bench-{kind.name}.ext4"
            where = hall.fresh("disk")
            where.mkdir()
            with open(image, "wb") as out:
                out.truncate(4 << 30)
            builders.run_command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
            builders.run_command("mount", "-o", "loop", image, where)
            engine = kind(where)
            try:
                builders.run_command("sync", "-f", where)
                return timed(*engine.load(archive)) + timed("sync", "-f", where)
            finally:
                engine.close()
                unmount_below(where)
                image.unlink()

        return measure

    yield Case("load 163 MB, disk and sync", {k.name: on_disk(k) for k in (Minidock, Docker)}, {"docker": 0.6}, 3)


def list_cases(hall: Hall) -> Iterator[Case]:
    """ps -a and images with 200 entries."""
    layer = builders.busybox_layer()
    specs = []
    for number in range(200):
        config = builders.image_config([layer], config={"Labels": {"number": str(number)}})
        specs.append(builders.ImageSpec([layer], config=config, tags=[f"many{number}:bench"]))
    archive = builders.docker_archive(hall.scratch / "images.tar", *specs)
    engines = [hall.engine(kind) for kind in (Minidock, Docker)]
    for engine in engines:
        timed(*engine.load(archive))
        for number in range(200):
            engine.run("create", "--network", "none", f"many{number}:bench", "true")
    for words in (("ps", "-a"), ("images",)):
        contenders: dict[str, Measure] = {
            engine.name: lambda _, engine=engine, words=words: engine.run(*words)  # type: ignore[misc]
            for engine in engines
        }
        yield Case(f"{words[0]}, 200 entries", contenders, {"docker": 1.0}, 15)


def commit_cases(hall: Hall) -> Iterator[Case]:
    """commit of a stopped container; the image is removed after each round, so that each one makes its layer."""
    archive = busybox(hall)
    for name, script in MAKE_FILES.items():
        big = name == "300 MB file"
        contenders: dict[str, Measure] = {}
        for kind in (Minidock,) if big else (Minidock, Docker):
            engine = hall.engine(kind)
            timed(*engine.load(archive))
            container = "c" + str(len(script))
            engine.run("run", "--name", container, "--network", "none", "busybox:bench", "sh", "-c", script)

            def commit(_: int, engine: Minidock = engine, container: str = container) -> float:
                seconds = engine.run("commit", container, "committed:bench")
                engine.forget("committed:bench")
                return seconds

            contenders[kind.name] = commit
        if big:
            contenders["tar | openssl"] = _tar_to_openssl(hall)
        bars = {"tar | openssl": 1.5} if big else {"docker": 0.5 if name == "1 file" else 0.4}
        yield Case(f"commit {name}", contenders, bars, 5 if big else 9)


def save_cases(hall: Hall) -> Iterator[Case]:
    """save of an image and export of a container never started, each to a file that was not there."""
    archive = hall.copy(real_images.minbase())
    engines = [hall.engine(kind) for kind in (Minidock, Docker, Podman)]
    for engine in engines:
        timed(*engine.load(archive))
        engine.run("create", "--name", "exported", "--network", "none", "minbase:1", "true")
    for verb, name in (("save", "minbase:1"), ("export", "exported")):

        def measure(engine: Minidock, verb: str = verb, name: str = name) -> float:
            target = hall.fresh("archive")
            seconds = engine.run(verb, "-o", target, name)
            target.unlink()
            return seconds

        contenders: dict[str, Measure] = {
            engine.name: lambda _, engine=engine, measure=measure: measure(engine)  # type: ignore[misc]
            for engine in engines
        }
        yield Case(f"{verb} 163 MB", contenders, {"docker": 0.7, "podman": 0.7}, 5)
    for engine in engines:
        engine.run("rm", "exported")


def _tar_to_openssl(hall: Hall) -> Measure:
    folder = hall.fresh("upper")
    folder.mkdir()
    subprocess.run(["dd", "if=/dev/urandom", f"of={folder / 'big'}", "bs=1M", "count=300", "status=none"], check=True)
    return lambda _: timed("sh", "-c", f"tar -c -C {folder} . | openssl sha256")


def busybox(hall: Hall) -> Path:
    """An archive of one small image."""
    spec = builders.ImageSpec([builders.busybox_layer()], tags=["busybox:bench"])
    return builders.docker_archive(hall.scratch / "busybox.tar", spec)


def verify_cases(hall: Hall) -> Iterator[Case]:
    """verify against reading the same directories with tar and hashing what comes out, one layer after the other."""
    images: list[tuple[str, Callable[[], Path], str]] = [
        ("163 MB", real_images.minbase, "minbase:1"),
        ("ten layers", real_images.ten_layers, "ten:10"),
        ("100,000 files", real_images.many_files, "many:1"),
        ("1 GB file", real_images.big_file, "big:1"),
    ]
    for name, make, reference in images:
        engine = Minidock(hall.fresh("verify"))
        timed(*engine.load(hall.copy(make())))
        contenders = {"minidock": _verify(engine, reference), "tar, then openssl": _tar_of_layers(engine)}
        yield Case(f"verify {name}", contenders, {"tar, then openssl": 2.0}, 5)
        engine.close()


def _verify(engine: Minidock, reference: str) -> Measure:
    return lambda _: engine.run("verify", reference)


def _tar_of_layers(engine: Minidock) -> Measure:
    script = 'for layer in "$1"/overlay2/*/diff; do tar -C "$layer" -cf - . | openssl sha256; done'
    return lambda _: timed("sh", "-c", script, "sh", engine.root)
