"""What is wrong with a data root, told without changing anything: one line a fault, each once.

A crash of either engine leaves halves behind: staging folders, a record without its directory, a directory without
its record, files of no length. Docker's engine logs some of them and passes over the others; here every command
that shows the root names them all and goes on with what is whole. What uses layers checks them itself, each
time; see LayerStore.links.

Sizes are looked at rather than contents where they tell as much (`link`, `lower`), so that a layer costs ten calls.
Whoever is at work at this moment leaves halves too. So faults are believed only when a second look, with the lock
in hand, finds them again, and not when a stage names them: the next command that writes takes those back.
Source: shared format notes §12
"""

from __future__ import annotations

import os

from minidock.constants import MAX_CONFIG_BYTES, PRIVATE_DIR
from minidock.errors import FormatError, MinidockError, StoreBusy
from minidock.formats.gojson import parse_json
from minidock.ids import LINK_ID_LENGTH, ChainID, DiffID, chain_id_of, is_hex64, sha256_hex
from minidock.store.overlay2 import MAX_LOWERS
from minidock.store.transaction import read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot

_LEFT_OVER = "left by an interrupted command, nothing uses it"


def find_faults(root: DataRoot) -> list[str]:
    """One line for each fault of the data root, empty for a whole one; raises nothing that a fault could cause."""
    if root.fd < 0:
        return []
    seen = {text for text, _ in _Survey(root).look()}
    if not seen:
        return []
    lock_fd = hold_still(root.path)
    try:
        named = _names_in_stages(root)
        found = _Survey(root).look()
    finally:
        if lock_fd >= 0:
            os.close(lock_fd)
    return [
        text
        for text, is_passing in found
        if text in seen and not (is_passing and lock_fd < 0) and not any(name in text for name in named)
    ]


def hold_still(path: str) -> int:
    """A descriptor with a data root's lock, shared; -1 while somebody is at work there, dockerd or a command."""
    import fcntl

    from minidock.store.lock import hold_against_engine

    try:
        engine_fd = hold_against_engine(path)
    except StoreBusy:
        return -1
    if engine_fd >= 0:
        os.close(engine_fd)
    try:
        handle = os.open(f"{path}/{PRIVATE_DIR}/lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        # No command of this program ever wrote here; any descriptor will do.
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return -1
    return handle


def _names_in_stages(root: DataRoot) -> set[str]:
    """The 64 digits that markers of unfinished stages name; see transaction.py."""
    names: set[str] = set()
    for stage in _list(root.stage_path):
        for marker in _list(f"{root.stage_path}/{stage}"):
            names.update(word for word in marker.replace("-", ".").split(".") if is_hex64(word))
    return names


def _list(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _text(path: str) -> str | None:
    try:
        return read_small(path).decode("ascii", "replace")
    except OSError:
        return None


def _size(path: str) -> int:
    """The size of a regular file, -1 when there is none."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return -1


class _Survey:
    """One look at everything; each part adds (line, whether it may come from somebody at work)."""

    def __init__(self, root: DataRoot) -> None:
        self._root = root
        self._overlay = root.overlay_path
        self._layerdb = f"{root.image_path}/layerdb"
        self._found: list[tuple[str, bool]] = []
        self._directories = set(_list(self._overlay)) - {"l"}
        self._known: set[str] = set()
        self._short_names: dict[str, str] = {}
        self._parents: dict[str, str] = {}
        self._chains: dict[tuple[ChainID | None, str], ChainID] = {}

    def look(self) -> list[tuple[str, bool]]:
        self._look_at_short_names()
        self._look_at_layers()
        self._look_at_containers()
        self._look_at_images()
        self._look_at_rest()
        return self._found

    def _fault(self, path: str, reason: str, *, passing: bool = False) -> None:
        self._found.append((f"{path}: {reason}", passing))

    def _look_at_short_names(self) -> None:
        for name in _list(f"{self._overlay}/l"):
            try:
                target = os.readlink(f"{self._overlay}/l/{name}")
            except OSError:
                self._fault(f"{self._overlay}/l/{name}", "not a symlink")
                continue
            self._short_names[target] = name

    def _look_at_layers(self) -> None:
        path = f"{self._layerdb}/sha256"
        cache_ids: dict[str, str] = {}
        for name in _list(path):
            if not is_hex64(name):
                self._fault(f"{path}/{name}", _LEFT_OVER, passing=True)
                continue
            self._parents[name] = (_text(f"{path}/{name}/parent") or "").strip()[7:]
            cache_id = (_text(f"{path}/{name}/cache-id") or "").strip()
            if not cache_id or "/" in cache_id or cache_id in (".", "..", "l"):
                self._fault(f"{path}/{name}/cache-id", "names no directory")
                continue
            cache_ids[name] = cache_id
            self._known.add(cache_id)
            self._check_record(f"{path}/{name}")
        for name, cache_id in cache_ids.items():
            depth = self._depth(name)
            if depth is None:
                self._fault(f"{path}/{name}", "the layers below it are not all there")
                continue
            self._check_directory(cache_id, depth, f"layer sha256:{name}")

    def _check_record(self, path: str) -> None:
        size = _text(f"{path}/size") or ""
        if not size.isdecimal():
            self._fault(f"{path}/size", "not a decimal number")

    def _depth(self, name: str) -> int | None:
        """How many layers lie below one; None when one of them has no record."""
        depth = 0
        while parent := self._parents[name]:
            if parent not in self._parents or depth > MAX_LOWERS:
                return None
            name = parent
            depth += 1
        return depth

    def _check_directory(self, cache_id: str, depth: int, owner: str) -> None:
        """One directory of overlay2/, with so many others below it."""
        self._known.add(cache_id)
        path = f"{self._overlay}/{cache_id}"
        if cache_id not in self._directories:
            self._fault(path, f"missing, the directory of {owner}")
            return
        if _size(f"{path}/diff") < 0:
            self._fault(f"{path}/diff", f"missing, the content of {owner}")
        if _size(f"{path}/link") < LINK_ID_LENGTH:
            self._fault(f"{path}/link", "missing or cut, the short name of this layer")
        if f"../{cache_id}/diff" not in self._short_names:
            self._fault(path, "no symlink below l/ leads here")
        # `l/`, 26 characters and a colon for each, and no colon at the end.
        if max(_size(f"{path}/lower"), 0) not in (depth * 29 - 1 if depth else 0, depth * 29):
            self._fault(f"{path}/lower", f"does not name the {depth} layers below")

    def _look_at_containers(self) -> None:
        containers = f"{self._root.path}/containers"
        records = set(_list(f"{self._layerdb}/mounts"))
        for name in _list(containers):
            path = f"{containers}/{name}"
            if not is_hex64(name):
                continue
            if name not in records:
                self._fault(path, "the container has no record of its layers", passing=True)
            try:
                raw = read_small(f"{path}/config.v2.json")
                document = parse_json(raw, what="config.v2.json", limit_bytes=MAX_CONFIG_BYTES)
                if not isinstance(document.get("Config"), dict):
                    self._fault(path, "config.v2.json has no Config")
            except OSError:
                self._fault(path, "the container has no config.v2.json", passing=True)
            except FormatError as error:
                self._fault(path, error.message)
        present = set(_list(containers))
        for name in sorted(records):
            path = f"{self._layerdb}/mounts/{name}"
            if name not in present:
                self._fault(path, "keeps layers for a container that is not there", passing=True)
            self._check_mount(path)

    def _check_mount(self, path: str) -> None:
        mount_id = (_text(f"{path}/mount-id") or "").strip()
        init_id = (_text(f"{path}/init-id") or "").strip()
        parent = (_text(f"{path}/parent") or "").strip()[7:]
        if not is_hex64(mount_id):
            self._fault(f"{path}/mount-id", "names no directory", passing=True)
            return
        depth = 0
        if parent:
            below = self._depth(parent) if parent in self._parents else None
            if below is None:
                self._fault(path, f"layer sha256:{parent} is not there")
                self._known.update((mount_id, init_id))
                return
            depth = below + 1
        owner = f"container {path.rpartition('/')[2][:12]}"
        if init_id:
            self._check_directory(init_id, depth, owner)
            depth += 1
        self._check_directory(mount_id, depth, owner)

    def _look_at_images(self) -> None:
        path = f"{self._root.image_path}/imagedb/content/sha256"
        names = _list(path)
        for name in names:
            if is_hex64(name):
                self._check_image(f"{path}/{name}", name)
            else:
                self._fault(f"{path}/{name}", _LEFT_OVER, passing=True)
        references = self._root.references
        try:
            tagged = references.all()
        except MinidockError as error:
            self._found.append((str(error), False))
            return
        for reference, image_id in sorted(tagged.items()):
            if image_id[7:] not in names:
                self._fault(references.path, f"{reference} names {image_id}, which is not there")

    def _look_at_volumes(self) -> None:
        volumes = f"{self._root.path}/volumes"
        for name in _list(volumes):
            if name in ("metadata.db", "backingFsBlockDev"):
                continue
            if _size(f"{volumes}/{name}/_data") < 0:
                self._fault(f"{volumes}/{name}/_data", "missing, the content of a volume", passing=True)
            if _size(f"{volumes}/{name}/opts.json") == 0:
                self._fault(f"{volumes}/{name}/opts.json", "empty, the options of a volume")

    def _check_image(self, path: str, name: str) -> None:
        try:
            raw = read_small(path)
            if sha256_hex(raw) != name:
                self._fault(path, "does not hash to its name, no image any more")
                return
            rootfs = parse_json(raw, what=path, limit_bytes=MAX_CONFIG_BYTES).get("rootfs")
            if not isinstance(rootfs, dict):
                self._fault(path, "has no rootfs")
                return
            chain_id: ChainID | None = None
            for diff_id in rootfs.get("diff_ids") or ():
                # Images share their lower layers, and hashing is most of what an image costs here.
                above = self._chains.get((chain_id, diff_id))
                if above is None:
                    above = self._chains[chain_id, diff_id] = chain_id_of(chain_id, DiffID.parse(diff_id))
                chain_id = above
        except (OSError, TypeError):
            self._fault(path, "cannot be read")
        except FormatError as error:
            self._found.append((error.message if path in error.message else f"{path}: {error.message}", False))
        else:
            if chain_id is not None and chain_id.hex not in self._parents:
                self._fault(path, f"the image's layer sha256:{chain_id.hex} is not there")

    def _look_at_rest(self) -> None:
        self._look_at_volumes()
        for name in _list(f"{self._layerdb}/tmp"):
            self._fault(f"{self._layerdb}/tmp/{name}", _LEFT_OVER, passing=True)
        for name in _list(self._root.image_path):
            if name.startswith(".tmp-"):
                self._fault(f"{self._root.image_path}/{name}", _LEFT_OVER, passing=True)
        for name in sorted(self._directories - self._known):
            # The other names are BuildKit's, which keeps its own records, and the engine's device node.
            if is_hex64(name.removesuffix("-init")):
                self._fault(f"{self._overlay}/{name}", "no layer and no container has this directory", passing=True)
        for target, name in sorted(self._short_names.items()):
            cache_id = target[3:-5]
            if cache_id not in self._known and cache_id not in self._directories:
                self._fault(f"{self._overlay}/l/{name}", f"leads to {target}, which is not there", passing=True)
