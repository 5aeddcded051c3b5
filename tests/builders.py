"""Raw material for tests, written without the product's own code: tar bytes, image configs, image archives."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests import forked

END = bytes(1024)


def sha256(data: bytes) -> str:
    """The digest of data as `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _octal(value: int | bytes, width: int) -> bytes:
    if isinstance(value, bytes):
        return value.ljust(width, b"\0")[:width]
    if value < 0 or value >= 8 ** (width - 1):
        # GNU base-256 for what octal cannot hold
        return (
            (value & ((1 << (8 * width)) - 1)).to_bytes(width, "big", signed=False)
            if value < 0
            else (value | (1 << (8 * width - 1))).to_bytes(width, "big")
        )
    return b"%0*o\0" % (width - 1, value)


def tar_header(
    name: bytes,
    *,
    type: bytes = b"0",
    size: int | bytes = 0,
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 1_600_000_000,
    linkname: bytes = b"",
    uname: bytes = b"",
    gname: bytes = b"",
    devmajor: int | bytes = 0,
    devminor: int | bytes = 0,
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
    checksum: bytes | None = None,
) -> bytes:
    """One 512-byte header exactly as told, sane or not; name is cut at 100 bytes."""
    block = bytearray(
        name[:100].ljust(100, b"\0")
        + _octal(mode, 8)
        + _octal(uid, 8)
        + _octal(gid, 8)
        + _octal(size, 12)
        + _octal(mtime, 12)
        + b" " * 8
        + type
        + linkname[:100].ljust(100, b"\0")
        + magic
        + uname[:32].ljust(32, b"\0")
        + gname[:32].ljust(32, b"\0")
        + _octal(devmajor, 8)
        + _octal(devminor, 8)
        + prefix[:155].ljust(155, b"\0")
    )
    block += bytes(512 - len(block))
    block[148:156] = b"%06o\0 " % sum(block) if checksum is None else checksum
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Data filled up to a whole number of 512-byte blocks."""
    return data + bytes(-len(data) % 512)


def pax_record(key: bytes, value: bytes) -> bytes:
    """One `<length> key=value\\n` record, whose length counts itself."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


def pax_member(records: dict[bytes, bytes] | bytes, *, type: bytes = b"x", name: bytes = b"PaxHeaders.0/x") -> bytes:
    """An extended header with these records (or these raw bytes)."""
    data = records if isinstance(records, bytes) else b"".join(pax_record(*item) for item in records.items())
    return tar_header(name, type=type, size=len(data)) + padded(data)


def tar_member(name: bytes, data: bytes = b"", *, pax: dict[bytes, bytes] | None = None, **header: Any) -> bytes:
    """A header with its data; names of more than 100 bytes get a PAX path."""
    records = dict(pax or {})
    if len(name) > 100:
        records.setdefault(b"path", name)
    linkname = header.get("linkname", b"")
    if len(linkname) > 100:
        records.setdefault(b"linkpath", linkname)
    extended = pax_member(records) if records else b""
    header.setdefault("size", len(data))
    return extended + tar_header(name, **header) + padded(data)


def directory(name: bytes, **header: Any) -> bytes:
    """A directory entry."""
    return tar_member(name.rstrip(b"/") + b"/", **{"type": b"5", "mode": 0o755, **header})


def symlink(name: bytes, target: bytes, **header: Any) -> bytes:
    """A symlink entry."""
    return tar_member(name, **{"type": b"2", "linkname": target, "mode": 0o777, **header})


def hardlink(name: bytes, target: bytes, **header: Any) -> bytes:
    """A hard link entry."""
    return tar_member(name, **{"type": b"1", "linkname": target, **header})


def layer_tar(*members: bytes, end: bytes = END) -> bytes:
    """A layer tar of these members."""
    return b"".join(members) + end


def busybox_layer() -> bytes:
    """A rootfs layer with the host's static busybox, /bin/sh and friends, passwd, group and /tmp."""
    binary = Path("/bin/busybox").read_bytes()
    applets = (
        "sh ls cat echo true false sleep id env pwd mkdir rm cp mv ln chmod chown touch stat mount umount hostname ps "
        "kill test printf tr grep sed head tail wc dd readlink sync uname ip mknod tar find seq yes stty tty"
    )
    members = [
        directory(b"bin"),
        tar_member(b"bin/busybox", binary, mode=0o755),
        *(symlink(b"bin/" + word.encode(), b"busybox") for word in applets.split()),
        directory(b"etc"),
        tar_member(
            b"etc/passwd",
            b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
            b"alice:x:1000:1000:Alice:/home/alice:/bin/sh\n",
        ),
        tar_member(b"etc/group", b"root:x:0:\ndaemon:x:1:\naudio:x:29:alice\nalice:x:1000:\n"),
        directory(b"root", mode=0o700),
        directory(b"tmp", mode=0o1777),
        directory(b"home"),
        directory(b"home/alice", uid=1000, gid=1000),
    ]
    return layer_tar(*members)


def image_config(layers: Sequence[bytes | str], *, config: dict[str, Any] | None = None, **document: Any) -> bytes:
    """An image config for layers given as tar bytes or as diff_ids; extra top-level keys override."""
    diff_ids = [layer if isinstance(layer, str) else sha256(layer) for layer in layers]
    base: dict[str, Any] = {
        "architecture": "amd64",
        "config": {"Env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"], "Cmd": ["sh"], **(config or {})},
        "created": "2026-01-02T03:04:05.678Z",
        "history": [
            {"created": "2026-01-02T03:04:05.678Z", "created_by": f"layer {number}"} for number in range(len(diff_ids))
        ],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    base.update(document)
    return json.dumps({key: value for key, value in base.items() if value is not None}, separators=(",", ":")).encode()


def outer_tar(members: Iterable[tuple[str, bytes | None | tuple[str, str]]]) -> bytes:
    """An outer tar: (name, bytes), (name, None) for a directory, (name, ("symlink", target))."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            elif isinstance(content, tuple):
                info.type = tarfile.SYMTYPE if content[0] == "symlink" else tarfile.LNKTYPE
                info.linkname = content[1]
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class ImageSpec:
    """One image of an archive: its layers' tar bytes (bottom first), config bytes and tags."""

    def __init__(self, layers: Sequence[bytes], *, tags: Sequence[str] = (), config: bytes | None = None) -> None:
        self.layers = list(layers)
        self.tags = list(tags)
        self.config = image_config(self.layers) if config is None else config


def docker_archive_members(
    *images: ImageSpec, style: str = "v1", compress: Any = None
) -> list[tuple[str, bytes | None | tuple[str, str]]]:
    """The members of a docker-save archive.

    Shape: style "v1" as engines up to 24 (<id>/layer.tar, repeated layers as symlinks), "oci" as 25 and newer
           (blobs/sha256, with index.json), "podman" (<diff hex>.tar); compress maps layer bytes to stored bytes
    """
    members: list[tuple[str, bytes | None | tuple[str, str]]] = []
    manifest: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    seen: dict[bytes, str] = {}
    index: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        names: list[str] = []
        blobs: list[dict[str, Any]] = []
        for depth, layer in enumerate(image.layers):
            stored = compress(layer) if compress else layer
            if style == "v1":
                v1_id = hashlib.sha256(b"%d/%d/" % (number, depth) + layer).hexdigest()
                members += [(v1_id + "/", None), (v1_id + "/VERSION", b"1.0"), (v1_id + "/json", b"{}")]
                name = v1_id + "/layer.tar"
                if layer in seen:
                    members.append((name, ("symlink", "../" + seen[layer])))
                else:
                    members.append((name, stored))
                    seen[layer] = name
            elif style == "podman":
                name = hashlib.sha256(layer).hexdigest() + ".tar"
                if layer not in seen:
                    members.append((name, stored))
                    seen[layer] = name
            else:
                name = "blobs/sha256/" + hashlib.sha256(stored).hexdigest()
                if layer not in seen:
                    members.append((name, stored))
                    seen[layer] = name
                blobs.append(
                    {
                        "mediaType": "application/vnd.oci.image.layer.v1.tar",
                        "size": len(stored),
                        "digest": sha256(stored),
                    }
                )
            names.append(name)
        hexdigest = hashlib.sha256(image.config).hexdigest()
        config_name = "blobs/sha256/" + hexdigest if style == "oci" else hexdigest + ".json"
        members.append((config_name, image.config))
        manifest.append({"Config": config_name, "RepoTags": image.tags or None, "Layers": names})
        for tag in image.tags:
            repository, _, label = tag.rpartition(":")
            repositories.setdefault(repository, {})[label] = hexdigest
        if style == "oci":
            document = json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": {
                        "mediaType": "application/vnd.oci.image.config.v1+json",
                        "digest": sha256(image.config),
                        "size": len(image.config),
                    },
                    "layers": blobs,
                }
            ).encode()
            members.append(("blobs/sha256/" + sha256(document)[7:], document))
            for tag in image.tags or [""]:
                entry: dict[str, Any] = {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": sha256(document),
                    "size": len(document),
                }
                if tag:
                    entry["annotations"] = {
                        "io.containerd.image.name": "docker.io/library/" + tag,
                        "org.opencontainers.image.ref.name": tag.rpartition(":")[2],
                    }
                index.append(entry)
    if style == "oci":
        layout = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": index}
        members += [("index.json", json.dumps(layout).encode()), ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')]
    members.append(("manifest.json", json.dumps(manifest).encode() + b"\n"))
    if repositories:
        members.append(("repositories", json.dumps(repositories).encode() + b"\n"))
    return members


def docker_archive(path: Path | str, *images: ImageSpec, style: str = "v1", compress: Any = None) -> Path:
    """Write a docker-save archive to path; see docker_archive_members."""
    Path(path).write_bytes(outer_tar(docker_archive_members(*images, style=style, compress=compress)))
    return Path(path)


def tree_listing(root: Path | str) -> list[tuple[Any, ...]]:
    """Every path below root with type, mode, owner, size and link target; equal lists mean an equal tree.

    Directory sizes and times are left out, since they differ without anything having changed, and so are
    minidock's compiled seccomp filters and the lock of its networks, which the first container leaves for all that
    follow.
    """
    listing: list[tuple[Any, ...]] = []
    base = os.fsencode(root)
    for where, directories, files in os.walk(base):
        for name in sorted(directories + files):
            path = os.path.join(where, name)
            if path.startswith((base + b"/minidock/seccomp", base + b"/minidock/network")):
                continue
            status = os.lstat(path)
            is_link = (status.st_mode & 0o170000) == 0o120000
            size = 0 if (status.st_mode & 0o170000) == 0o040000 else status.st_size
            target = os.readlink(path) if is_link else b""
            listing.append((path[len(base) :], status.st_mode, status.st_uid, status.st_gid, size, target))
    return sorted(listing)


def run_command(*words: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and keep its output; a failure shows both streams."""
    texts = [str(word) for word in words]
    done = forked.run(texts, options) or subprocess.run(texts, capture_output=True, text=True, **options)
    if check and done.returncode:
        raise AssertionError(f"{words} ended with {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}")
    return done
