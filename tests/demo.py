"""The main job from end to end, on an image made of this machine's own files.

Three layers go into a docker-save archive; pull-tar turns them into overlay2 directories; a container writes,
overwrites and deletes a file; commit makes a fourth layer of that; the new image is run. On the way every identity
is read from the data root and computed once more here, so that each line printed is also checked.
Run it as root with `sh tests/bootstrap demo`.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path

MINIDOCK = Path(sys.executable).with_name("minidock")
OVERLAY_MOUNT = re.compile(r"mount -t overlay \S+ -o (\S+)|mount -t overlay -o (\S+)")


def digest(data: bytes) -> str:
    """The digest of data in Docker's spelling."""
    return "sha256:" + sha256(data).hexdigest()


def title(text: str) -> None:
    """Print the heading of a step."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}")


def check(what: str, actual: object, expected: object) -> None:
    """Stop the demo if something is not as it must be."""
    if actual != expected:
        raise SystemExit(f"demo: {what}: expected {expected!r}, got {actual!r}")


class Tar:
    """A layer in the making: the members of one tar, always with the same bytes for the same content."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w", format=tarfile.PAX_FORMAT)
        self.directories: set[str] = set()

    def add(self, name: str, data: bytes | None = None, *, mode: int = 0o644, target: str = "") -> None:
        """Add a file, a directory (no data) or a symlink (a target), and its parent directories first."""
        parent = os.path.dirname(name)
        if parent and parent not in self.directories:
            self.add(parent, mode=0o755)
        member = tarfile.TarInfo(name)
        member.mtime = 1_700_000_000
        member.mode = mode
        if target:
            member.type, member.linkname = tarfile.SYMTYPE, target
        elif data is None:
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            self.directories.add(name)
        else:
            member.size = len(data)
        self.tar.addfile(member, None if data is None else io.BytesIO(data))

    def bytes(self) -> bytes:
        """The finished tar."""
        self.tar.close()
        return self.buffer.getvalue()


def programs_layer() -> bytes:
    """A bottom layer with a shell: the static busybox, or sh, cat, ls and rm with the libraries they load."""
    layer = Tar()
    busybox = shutil.which("busybox")
    if busybox:
        layer.add("bin/busybox", Path(busybox).read_bytes(), mode=0o755)
        for name in ("sh", "cat", "ls", "rm", "true"):
            layer.add(f"bin/{name}", target="busybox")
    else:
        libraries: set[str] = set()
        for name in ("sh", "cat", "ls", "rm", "true"):
            program = shutil.which(name)
            assert program
            layer.add(f"bin/{name}", Path(program).read_bytes(), mode=0o755)
            listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
            libraries.update(re.findall(r"(/\S+) \(0x", listed))
        for library in sorted(libraries):
            layer.add(library.lstrip("/"), Path(library).read_bytes(), mode=0o755)
    layer.add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    layer.add("etc/group", b"root:x:0:\n")
    layer.add("root")
    return layer.bytes()


def build_archive(path: Path) -> list[str]:
    """Write a three-layer docker-save archive and return its diff_ids, bottom first."""
    data = Tar()
    for name in ("kept", "changed", "deleted", "hidden"):
        data.add(f"data/{name}", f"{name}, as the second layer has it\n".encode())
    top = Tar()
    top.add("data/.wh.hidden", b"")
    top.add("data/changed", b"changed by the third layer\n")
    layers = [programs_layer(), data.bytes(), top.bytes()]
    diff_ids = [digest(layer) for layer in layers]
    config = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "WorkingDir": "/data"},
            "created": "2024-01-01T00:00:00Z",
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in (1, 2, 3)],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()
    names = [f"{diff_id[7:]}/layer.tar" for diff_id in diff_ids]
    manifest = [{"Config": f"{digest(config)[7:]}.json", "RepoTags": ["demo:1"], "Layers": names}]
    archive = Tar()
    for name, layer in zip(names, layers, strict=True):
        archive.add(name, layer)
    archive.add(f"{digest(config)[7:]}.json", config)
    archive.add("manifest.json", json.dumps(manifest).encode())
    path.write_bytes(archive.bytes())
    return diff_ids


class Demo:
    """The steps, each through the installed command on one scratch data root."""

    def __init__(self, scratch: Path) -> None:
        self.root = scratch / "root"

    def minidock(self, *words: str) -> str:
        """Run the real command, show it, and return what it printed on both streams."""
        shown = " ".join(word if re.fullmatch(r"[\w:./=-]+", word) else f"'{word}'" for word in words)
        print(f"$ minidock {shown}", flush=True)
        done = subprocess.run(
            [MINIDOCK, "--root", self.root, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise SystemExit(f"demo: that ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def show(self, *words: str) -> str:
        """Run a command and print its output below it."""
        output = self.minidock(*words)
        print("".join(f"    {line}\n" for line in output.splitlines()), end="")
        return output

    def read(self, *parts: str) -> str:
        """A record of the data root."""
        return self.root.joinpath(*parts).read_text()

    def chain(self, reference: str) -> tuple[list[str], list[str]]:
        """Print and check every identity of an image; its diff_ids and its link names, both bottom first."""
        title(f"The identities of {reference}, as the data root has them")
        records = json.loads(self.read("image/overlay2/repositories.json"))["Repositories"]
        image_id = records[reference.partition(":")[0]][reference]
        print(f"repositories.json     {reference} -> {image_id}")
        config = self.root.joinpath("image/overlay2/imagedb/content/sha256", image_id[7:]).read_bytes()
        check("the image ID is the hash of its config", digest(config), image_id)
        print(
            f"  image ID            sha256 of the config's {len(config)} bytes, image/overlay2/imagedb/content/sha256/"
        )
        diff_ids: list[str] = json.loads(config)["rootfs"]["diff_ids"]
        links: list[str] = []
        parent = ""
        for number, diff_id in enumerate(diff_ids, 1):
            chain_id = digest(f"{parent} {diff_id}".encode()) if parent else diff_id
            layer = ("image/overlay2/layerdb/sha256", chain_id[7:])
            check("layerdb's diff", self.read(*layer, "diff"), diff_id)
            check("layerdb's parent", parent and self.read(*layer, "parent"), parent)
            cache_id = self.read(*layer, "cache-id")
            link = self.read("overlay2", cache_id, "link")
            check("the link", os.readlink(self.root / "overlay2/l" / link), f"../{cache_id}/diff")
            lower = ":".join(f"l/{name}" for name in reversed(links))
            check("lower", lower and self.read("overlay2", cache_id, "lower"), lower)
            print(f"  layer {number}  diff_id    {diff_id}  (sha256 of the layer's tar)")
            made = f'the sha256 of "{parent} {diff_id}"' if parent else "the bottom layer's is its diff_id"
            print(f"           chain_id   {chain_id}")
            print(f"                      = {made}")
            print(f"           cache_id   overlay2/{cache_id}/diff")
            print(f"           link       overlay2/l/{link} -> ../{cache_id}/diff")
            links.append(link)
            parent = chain_id
        return diff_ids, links

    def mount(self, explained: str, links: list[str]) -> None:
        """Print the overlay mount that a run's explanation shows, and check its layers."""
        found = OVERLAY_MOUNT.search(explained)
        if not found:
            raise SystemExit(f"demo: --explain shows no overlay mount:\n{explained}")
        options = dict(part.partition("=")[::2] for part in (found[1] or found[2]).strip("'\"").split(","))
        lowers = options["lowerdir"].split(":")
        for name in ("lowerdir", "upperdir", "workdir"):
            print(f"  {name:<9} {options[name]}")
        check("the mount's layers, topmost first", lowers[1:], [f"l/{link}" for link in reversed(links)])
        print("  (the first lowerdir is the container's init layer, the others are the image's links, topmost first)")

    def play(self, archive: Path) -> None:
        """The whole main job."""
        diff_ids = build_archive(archive)
        print(f"{archive.name}: {archive.stat().st_size} bytes, three layers, made of this machine's files")
        title("pull-tar: the archive becomes overlay2 directories")
        self.show("pull-tar", str(archive))
        found, links = self.chain("demo:1")
        check("the image's diff_ids", found, diff_ids)

        title("run: write a file, overwrite one, delete one")
        script = "echo written >/data/new; echo overwritten >/data/changed; rm /data/deleted; ls /data"
        explained = self.minidock(
            "run", "--explain", "--network", "none", "--name", "edit", "demo:1", "sh", "-c", script
        )
        listed = [line for line in explained.splitlines() if line in ("changed", "deleted", "hidden", "kept", "new")]
        check("ls /data inside", listed, ["changed", "kept", "new"])
        print("    " + " ".join(listed) + "\nthe container's root was one overlay mount:")
        self.mount(explained, links)
        check("diff", set(self.show("diff", "edit").split("\n")) >= {"A /data/new", "C /data/changed"}, True)

        title("commit: the upper directory becomes a fourth layer")
        image_id = self.show("commit", "-m", "edited", "edit", "demo:2").strip()
        new_diff_ids, new_links = self.chain("demo:2")
        check("the layers below are shared", (new_diff_ids[:3], new_links[:3]), (diff_ids, links))
        check("there is one new layer", len(new_diff_ids), 4)

        title("the new image, run")
        output = self.show(
            "run", "--rm", "--network", "none", "demo:2", "sh", "-c", "cat /data/new /data/changed; ls /data"
        )
        check("what it sees", output.split(), ["written", "overwritten", "changed", "kept", "new"])
        check("its history's rows", len(self.show("history", "demo:2").splitlines()), 5)
        self.show("images")
        self.minidock("rm", "edit")
        check("containers left", len(self.minidock("ps", "-a").splitlines()), 1)
        print(f"\ndemo: all as it should be: {image_id}")


def scratch_base() -> str:
    """A directory for the data root that is not itself on an overlay, since the kernel refuses that as upperdir."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", "/var/tmp"], capture_output=True, text=True).stdout.strip()
    return "/dev/shm" if kind == "overlayfs" else "/var/tmp"


def main() -> None:
    """Play the demo in a scratch directory and leave nothing behind."""
    scratch = Path(tempfile.mkdtemp(prefix="minidock-demo-", dir=scratch_base()))
    try:
        Demo(scratch).play(scratch / "demo.tar")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
