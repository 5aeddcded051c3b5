"""Archives of real tools: the image IDs and layers are those that the tools themselves name, and dockerd takes them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from minidock.store.root import DataRoot
from minidock.verbs.pull_tar import pull_tar
from tests import builders
from tests.conftest import Engine, missing

IMAGES = ("interop/three:1", "interop/two:1")


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        missing(f"{tool} is not installed")


@pytest.fixture(scope="module")
def made(dockerd: Engine, busybox_archive: Path) -> Iterator[dict[str, str]]:
    """Two images that share two layers, made by the engine itself; their IDs by name."""
    dockerd.docker("load", "-i", busybox_archive)
    parent = "busybox:test"
    for name, script in (
        (IMAGES[1], "rm -r /data/deep && echo second >/data/two && ln -s two /data/link"),
        (IMAGES[0], "mkdir /sub && mknod /sub/fifo p && chmod 700 /data && chown 1000:1000 /data/one"),
    ):
        container = dockerd.docker(
            "create", "--network=none", "--entrypoint=/bin/sh", parent, "-c", script
        ).stdout.strip()
        dockerd.docker("start", "-a", container)
        changes = ("ENV X=<&>", 'ENTRYPOINT ["/bin/sh"]', "LABEL ü=\u2028", "EXPOSE 80", "WORKDIR /data")
        words = [word for change in changes for word in ("-c", change)]
        dockerd.docker("commit", "-a", "Me <me@x>", "-m", "why & how", *words, container, name)
        dockerd.docker("rm", container)
        parent = name
    yield {name: image_id_of(dockerd, name) for name in (*IMAGES, "busybox:test")}
    dockerd.docker("rmi", *IMAGES, "busybox:test")


def image_id_of(dockerd: Engine, name: str) -> str:
    return dockerd.docker("inspect", "-f", "{{.Id}}", name).stdout.strip()


def layer_records(root: Path) -> dict[str, tuple[str, ...]]:
    """What layerdb says of each chain, but for the random directory name."""
    base = root / "image/overlay2/layerdb/sha256"
    return {
        chain: tuple(
            (base / chain / key).read_text() for key in ("diff", "size", "parent") if (base / chain / key).exists()
        )
        for chain in os.listdir(base)
    }


@pytest.fixture(scope="module")
def saved(dockerd: Engine, made: dict[str, str], session_scratch: Path) -> Path:
    """What `docker save` of 20.10 makes of both images, in this order.

    The engine takes the random order of a Go map, and a layer's later copies are symlinks, which skopeo cannot read.
    """
    archive = session_scratch / "saved.tar"
    for _ in range(100):
        dockerd.docker("save", "-o", archive, *IMAGES)
        manifest = json.loads(builders.run_command("tar", "-xOf", archive, "manifest.json").stdout)
        if manifest[0]["RepoTags"] == [IMAGES[0]]:
            return archive
    raise AssertionError("a hundred times in the other order")


def test_docker_save(dockerd: Engine, made: dict[str, str], saved: Path, data_root: DataRoot) -> None:
    loaded = pull_tar(data_root, str(saved))
    assert {str(image.references[0]): image.image_id for image in loaded} == {name: made[name] for name in IMAGES}
    theirs, ours = layer_records(dockerd.root), layer_records(Path(data_root.path))
    assert len(ours) == 4
    assert ours == {chain: theirs[chain] for chain in ours}
    for image in loaded:
        digits = image.image_id.hex
        their_config = dockerd.root / "image/overlay2/imagedb/content/sha256" / digits
        assert data_root.images.get(image.image_id).raw == their_config.read_bytes()
    # The archive names the parent, since it holds it too; that of the other image is not in there.
    assert data_root.images.parent(loaded[0].image_id) == loaded[1].image_id
    assert data_root.images.parent(loaded[1].image_id) is None


def test_docker_save_piped_and_compressed(
    made: dict[str, str], saved: Path, data_root: DataRoot, scratch: Path
) -> None:
    for tool in ("cat", "gzip", "bzip2", "xz", "zstd"):
        need(tool)
        with subprocess.Popen(
            [tool, *(["-c", "-1"] if tool != "cat" else []), saved], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            loaded = pull_tar(data_root, process.stdout.fileno())
        assert [image.image_id for image in loaded] == [made[name] for name in IMAGES], tool


def test_docker_save_by_id_has_no_name(
    dockerd: Engine, made: dict[str, str], data_root: DataRoot, scratch: Path
) -> None:
    dockerd.docker("save", "-o", scratch / "a", made[IMAGES[0]])
    (loaded,) = pull_tar(data_root, str(scratch / "a"))
    assert (loaded.image_id, loaded.references) == (made[IMAGES[0]], [])


def test_docker_export_becomes_what_docker_import_makes(
    dockerd: Engine, made: dict[str, str], data_root: DataRoot, scratch: Path
) -> None:
    container = dockerd.docker("create", IMAGES[0], "true").stdout.strip()
    dockerd.docker("export", "-o", scratch / "tree", container)
    dockerd.docker("rm", container)
    theirs = dockerd.docker("import", scratch / "tree", "interop/tree:1").stdout.strip()
    raw = (dockerd.root / "image/overlay2/imagedb/content/sha256" / theirs[7:]).read_bytes()
    dockerd.docker("rmi", "interop/tree:1")
    (loaded,) = pull_tar(data_root, str(scratch / "tree"), name="interop/tree:1")
    document, expected = json.loads(data_root.images.get(loaded.image_id).raw), json.loads(raw)
    for one in (document, expected):
        one.pop("docker_version", None)
        moments = {one.pop("created"), one["history"][0].pop("created")}
        assert len(moments) == 1
    assert json.dumps(document) == json.dumps(expected), "the same values in the same order"


def test_the_engine_takes_over_what_pull_tar_wrote(
    new_engine: Callable[[], Engine], made: dict[str, str], saved: Path, scratch: Path
) -> None:
    engine = new_engine()
    with DataRoot.open(str(engine.root)) as root:
        loaded = pull_tar(root, str(saved))
        chain_ids = root.images.get(loaded[0].image_id).config.chain_ids
        diff_ids = {layer.diff_id for layer in root.layers.stack(chain_ids[-1])}
    engine.start()
    listed = engine.docker("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").stdout.splitlines()
    assert sorted(listed) == sorted(f"{name} {made[name]}" for name in IMAGES)
    run = engine.docker("run", "--rm", "--network=none", "--entrypoint=cat", IMAGES[0], "/data/link")
    assert run.stdout == "second\n"
    engine.docker("save", "-o", scratch / "again", IMAGES[0])
    engine.docker("rmi", *IMAGES)
    engine.stop()
    folder = scratch / "again.d"
    folder.mkdir()
    builders.run_command("tar", "-C", folder, "-xf", scratch / "again")
    (entry,) = json.loads((folder / "manifest.json").read_bytes())
    assert {"sha256:" + sha256((folder / name).read_bytes()).hexdigest() for name in entry["Layers"]} == diff_ids
    assert os.listdir(engine.root / "image/overlay2/layerdb/sha256") == []


class Podman:
    """podman with a storage of its own."""

    def __init__(self, base: Path) -> None:
        self._words: list[str | Path] = [
            "podman",
            "--root",
            base / "root",
            "--runroot",
            base / "run",
            "--storage-driver",
            "vfs",
        ]
        self._words += ["--tmpdir", base / "tmp", "--events-backend", "none"]

    def __call__(self, *words: str | Path) -> str:
        return builders.run_command(*self._words, *words).stdout.strip()


@pytest.fixture(scope="module")
def podman(saved: Path, made: dict[str, str], session_scratch: Path) -> Podman:
    need("podman")
    podman = Podman(session_scratch / "podman")
    podman("load", "-q", "-i", saved)
    for name in IMAGES:
        podman("tag", made[name][7:], "docker.io/" + name)
        podman("untag", made[name][7:], "localhost/" + name)
    return podman


def test_podman_docker_archive(podman: Podman, made: dict[str, str], data_root: DataRoot, scratch: Path) -> None:
    podman("save", "-q", "-m", "-o", scratch / "a", *("docker.io/" + name for name in IMAGES))
    loaded = pull_tar(data_root, str(scratch / "a"))
    found = {str(reference): image.image_id for image in loaded for reference in image.references}
    assert found == {name: made[name] for name in IMAGES}


def test_an_archive_of_podman_gives_dockers_image_id(
    podman: Podman, dockerd: Engine, made: dict[str, str], data_root: DataRoot, scratch: Path
) -> None:
    """An image that podman made itself: whatever ID docker load gives it, pull-tar gives it too."""
    tree = scratch / "tree.tar"
    tree.write_bytes(builders.busybox_layer())
    podman("import", "-q", "-c", "CMD /bin/sh", tree, "podman-made:1")
    podman("save", "-q", "-o", scratch / "a", "podman-made:1")
    dockerd.docker("load", "-i", scratch / "a")
    theirs = image_id_of(dockerd, "localhost/podman-made:1")
    dockerd.docker("rmi", "localhost/podman-made:1")
    (loaded,) = pull_tar(data_root, str(scratch / "a"))
    assert (str(loaded.references[0]), loaded.image_id) == ("localhost/podman-made:1", theirs)


@pytest.mark.parametrize("form", ["oci-archive", "oci-dir", "docker-dir"])
def test_podman_other_forms(form: str, podman: Podman, data_root: DataRoot, scratch: Path) -> None:
    where = scratch / "out"
    podman("save", "-q", "--format", form, "-o", where, "docker.io/" + IMAGES[0])
    (loaded,) = pull_tar(data_root, str(where), name="podman:1" if form == "docker-dir" else None)
    names = {"oci-archive": IMAGES[0], "docker-dir": "podman:1"}
    if form in names:
        assert [str(reference) for reference in loaded.references] == [names[form]]
    again = Podman(scratch / "other")
    if form == "oci-archive":
        again("load", "-q", "-i", where)
    else:
        again("pull", "-q", f"{'oci' if form == 'oci-dir' else 'dir'}:{where}")
    assert loaded.image_id == "sha256:" + again("images", "-q", "--no-trunc").splitlines()[0].removeprefix("sha256:")


@pytest.mark.parametrize("words", [[], ["--dest-compress"], ["--format", "v2s2"]])
def test_skopeo_copies(words: list[str], saved: Path, made: dict[str, str], data_root: DataRoot, scratch: Path) -> None:
    need("skopeo")
    kind = "dir" if "v2s2" in words or "--dest-compress" in words else "oci"
    target = f"{kind}:{scratch / 'out'}" + (":three" if kind == "oci" else "")
    source = f"docker-archive:{saved}:{IMAGES[0]}"
    builders.run_command("skopeo", "--insecure-policy", "copy", "-q", *words, source, target)
    (loaded,) = pull_tar(data_root, str(scratch / "out"))
    if kind == "oci":
        index = json.loads((scratch / "out/index.json").read_bytes())
        manifest_path = scratch / "out/blobs/sha256" / index["manifests"][0]["digest"][7:]
    else:
        manifest_path = scratch / "out/manifest.json"
    assert loaded.image_id == json.loads(manifest_path.read_bytes())["config"]["digest"]
    config = data_root.images.get(loaded.image_id).config
    assert loaded.new_layers == config.chain_ids
    if kind == "dir":
        assert loaded.image_id == made[IMAGES[0]], "docker's own manifest keeps docker's own config"


def test_umoci_layouts(data_root: DataRoot, scratch: Path) -> None:
    need("umoci")
    layout, bundle = scratch / "layout", scratch / "bundle"
    image = f"{layout}:made"
    builders.run_command("umoci", "init", "--layout", layout)
    builders.run_command("umoci", "new", "--image", image)
    builders.run_command("umoci", "unpack", "--image", image, bundle)
    (bundle / "rootfs/file").write_text("from umoci\n")
    builders.run_command("umoci", "repack", "--image", image, bundle)
    builders.run_command("umoci", "config", "--image", image, "--config.env", "A=b", "--config.cmd", "/file")
    (loaded,) = pull_tar(data_root, str(layout), name="umoci:1")
    config = data_root.images.get(loaded.image_id).config
    assert (config.config.env[-1], config.config.cmd) == ("A=b", ["/file"])
    diff = data_root.layers.diff_path(data_root.layers.get(config.chain_ids[-1]).cache_id)
    assert Path(diff, "file").read_text() == "from umoci\n"


def test_the_same_archive_in_docker_and_here(dockerd: Engine, data_root: DataRoot, scratch: Path) -> None:
    """Archives that we build: every style and layer compression that 20.10 takes, the same IDs and sizes."""
    one = builders.layer_tar(
        builders.tar_member(b"a", b"1\n"), builders.hardlink(b"b", b"a"), builders.symlink(b"c", b"a")
    )
    two = builders.layer_tar(builders.tar_member(b"big", bytes(100_000)), builders.directory(b"d"))
    config = builders.image_config(
        [one, two],
        config={"Env": ["NOVALUE", "A=b=c"], "Healthcheck": {"Test": ["CMD-SHELL", "x"]}, "Entrypoint": "/x"},
    )
    spec = builders.ImageSpec([one, two], tags=["same:1", "same:2"], config=config)
    for style in ("v1", "podman"):
        for compress in (None, gzip.compress):
            archive = builders.docker_archive(scratch / "a", spec, style=style, compress=compress)
            dockerd.docker("load", "-i", archive)
            theirs = image_id_of(dockerd, "same:2")
            (loaded,) = pull_tar(data_root, str(archive))
            assert loaded.image_id == theirs
            their_layers, our_layers = layer_records(dockerd.root), layer_records(Path(data_root.path))
            assert our_layers == {chain: their_layers[chain] for chain in our_layers}
            dockerd.docker("rmi", "same:1", "same:2")
