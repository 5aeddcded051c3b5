"""overlay2/: one directory a layer, and how they become one file tree.

    overlay2/l/<link_id>            symlink to ../<cache_id>/diff, short enough for the mount's option page
    overlay2/<cache_id>/diff        the layer's content
    overlay2/<cache_id>/link        its link_id
    overlay2/<cache_id>/lower       l/<link_id>:l/<link_id>..., nearest layer first; absent in a bottom layer
    overlay2/<cache_id>/work        overlayfs' scratch; absent in a bottom layer
    overlay2/<cache_id>/committed   empty: nothing writes into diff any more

A container has two more of them: `<mount_id>-init` with the files that every container gets, and above it
`<mount_id>` with what it writes; layerdb/mounts/<container_id> names both.
Source: moby daemon/graphdriver/overlay2/overlay.go; shared format notes §3
"""

from __future__ import annotations

import errno
import os

from minidock.errors import FormatError, MaxDepthExceeded, NoSuchContainer, StoreCorrupt, SyscallError
from minidock.ids import LINK_ID_LENGTH, CacheID, ChainID, ContainerID, LinkID, random_hex64
from minidock.store.transaction import (
    delete_tree,
    make_directory,
    read_small,
    read_table,
    refuse_mounted,
    write_new,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot
    from minidock.store.transaction import Stage

# The mount(2) data argument is copied as one page, whose last byte is the string's end.
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Docker's engine counts 128 lowers at most; an image of 125 layers plus the init layer stays below.
MAX_LOWERS = 128
_MAX_LOWER_BYTES = MAX_LOWERS * 29


# save reads each layer by itself and checks every byte, so it gets out whatever is still there.
MEND = (
    "what needs this layer cannot run: minidock save it if that still works, remove it by minidock rmi, load it again"
)


def _corrupt(path: str, reason: object) -> StoreCorrupt:
    return StoreCorrupt(f"{path}: {reason}", hint=MEND)


def read_link(overlay_path: str, cache_id: str) -> LinkID:
    """The link_id of an overlay2 directory, checked; raises StoreCorrupt."""
    path = f"{overlay_path}/{CacheID.parse(cache_id)}/link"
    try:
        return LinkID.parse(read_small(path).decode("ascii", "replace").strip())
    except (OSError, FormatError) as error:
        raise _corrupt(path, getattr(error, "strerror", None) or error) from None


def read_lowers(overlay_path: str, cache_id: str) -> list[str]:
    """The `l/<link_id>` names below an overlay2 directory, nearest first; empty for a bottom layer.

    Every name is checked to be one, and to lead to a layer of this very data root: the kernel will follow it.
    Raises: StoreCorrupt
    """
    names = _names_below(overlay_path, cache_id)
    for name in names:
        check_link(overlay_path, name)
    return names


def _names_below(overlay_path: str, cache_id: str) -> list[str]:
    path = f"{overlay_path}/{CacheID.parse(cache_id)}/lower"
    try:
        text = read_small(path).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _corrupt(path, error.strerror) from None
    names = text.split(":")
    if len(text) > _MAX_LOWER_BYTES:
        raise _corrupt(path, f"names {len(names)} layers")
    return names


# Missing, no symlink, or under something that is no directory.
_NO_LINK = (errno.ENOENT, errno.EINVAL, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def check_link(overlay_path: str, name: str) -> CacheID:
    """The directory that `l/<link_id>` leads to; raises StoreCorrupt unless it is a layer's diff in this data root."""
    try:
        if not name.startswith("l/"):
            raise FormatError(f"not a short layer name: {name[:80]!r}")
        LinkID.parse(name[2:])
        target = os.readlink(f"{overlay_path}/{name}")
        if not (target.startswith("../") and target.endswith("/diff")):
            raise FormatError(f"leads to {target[:160]!r} instead of a layer")
        return CacheID.parse(target[3:-5])
    except (OSError, FormatError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LINK:
            # It may be as it should, but cannot be read now.
            raise SyscallError(f"readlink {overlay_path}/{name[:80]}", error.errno or errno.EIO) from None
        raise _corrupt(f"{overlay_path}/{name[:80]}", getattr(error, "strerror", None) or error) from None


def check_stack(overlay_path: str, cache_ids: list[str]) -> list[LinkID]:
    """The link_ids of directories that lie on each other, top first, after a look whether they still do.

    Each must be there with its content and its short name, and name as many below as there are; the topmost, whose
    list is what gets mounted, must name just these. Docker's engine mounts without a look, and what stands on a
    directory that lost its list of lowers lacks everything below.
    Raises: StoreCorrupt
    """
    top = read_link(overlay_path, cache_ids[0])
    names = [f"l/{top}", *_names_below(overlay_path, cache_ids[0])]
    if len(names) != len(cache_ids):
        raise _corrupt(
            f"{overlay_path}/{cache_ids[0]}/lower", f"names {len(names) - 1} layers, not {len(cache_ids) - 1}"
        )
    depth = len(cache_ids)
    for name, cache_id in zip(names, cache_ids, strict=True):
        path = f"{overlay_path}/{cache_id}"
        depth -= 1
        if (found := check_link(overlay_path, name)) != cache_id:
            raise _corrupt(path, f"{name}, which should lead here, leads to {found}")
        _check_files(path, depth)
    return [LinkID(name[2:]) for name in names]


def _check_files(path: str, depth: int) -> None:
    """A directory's parts by their kinds and sizes alone; depth: how many lie below it."""
    try:
        part = "diff"
        if os.lstat(f"{path}/diff").st_mode & 0o170000 != 0o040000:
            raise _corrupt(f"{path}/diff", "not a directory")
        part = "link"
        if os.lstat(f"{path}/link").st_size < LINK_ID_LENGTH:
            raise _corrupt(f"{path}/link", "empty or cut")
        part = "lower"
        if depth and os.lstat(f"{path}/lower").st_size < depth * 29 - 1:
            raise _corrupt(f"{path}/lower", f"does not name the {depth} layers below")
    except OSError as error:
        raise _corrupt(f"{path}/{part}", error.strerror) from None


def prepare_directory(path: str, link_id: LinkID) -> None:
    """Make the directory of a new layer: an empty diff, and its link name."""
    make_directory(path, 0o710)
    make_directory(f"{path}/diff", 0o755)
    write_new(f"{path}/link", link_id.encode("ascii"), 0o644)


def add_lowers(path: str, lowers: list[str]) -> None:
    """Give a new layer's directory what lies below it."""
    if lowers:
        write_new(f"{path}/lower", ":".join(lowers).encode("ascii"), 0o644)
        make_directory(f"{path}/work", 0o700)


def commit_directory(path: str) -> None:
    """Mark that nothing writes into this layer any more; done once by whoever comes first."""
    try:
        write_new(f"{path}/committed", b"", 0o600)
    except FileExistsError:
        return


def publish_directory(root: DataRoot, path: str, cache_id: CacheID, link_id: LinkID) -> None:
    """Move a prepared directory into overlay2/ and give it its short name."""
    target = f"{root.overlay_path}/{cache_id}"
    root.tell("write", target)
    try:
        os.rename(path, target)
        root.tell("link", f"{root.overlay_path}/l/{link_id} -> ../{cache_id}/diff")
        os.symlink(f"../{cache_id}/diff", f"{root.overlay_path}/l/{link_id}")
    except OSError as error:
        hint = "overlay2 must lie on the data root's own file system" if error.errno == errno.EXDEV else ""
        raise SyscallError(f"rename({path!r}, {target!r})", error.errno or errno.EIO, hint=hint) from None


def delete_directory(root: DataRoot, cache_id: str, *, is_checked: bool = False) -> None:
    """Delete an overlay2 directory with its short name; missing parts are fine.

    Shape:  is_checked: the caller has just made sure that nothing is mounted in it
    Raises: Conflict when something is mounted in it
    """
    path = f"{root.overlay_path}/{CacheID.parse(cache_id)}"
    if not os.path.lexists(path):
        _unlink_lost_name(root, cache_id)
        return
    if not is_checked:
        refuse_mounted(path)
    unlink_short_name(root, cache_id)
    root.tell("remove", path)
    stage = root.stages[-1] if root.stages else None
    if stage is not None:
        os.rename(path, stage.new_path("trash"))
        return
    handle = os.open(root.overlay_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        delete_tree(handle, cache_id)
    finally:
        os.close(handle)


def unlink_short_name(root: DataRoot, cache_id: str) -> None:
    """Remove a layer's symlink below l/, if it is really its own."""
    try:
        link_id = read_link(root.overlay_path, cache_id)
    except StoreCorrupt:
        _unlink_lost_name(root, cache_id)
        return
    try:
        if check_link(root.overlay_path, f"l/{link_id}") == cache_id:
            root.tell("remove", f"{root.overlay_path}/l/{link_id}")
            os.unlink(f"{root.overlay_path}/l/{link_id}")
    except (StoreCorrupt, FileNotFoundError):
        return


def _unlink_lost_name(root: DataRoot, cache_id: str) -> None:
    """Remove the symlink to a directory that no longer tells its short name; the engine leaves it behind."""
    folder = f"{root.overlay_path}/l"
    try:
        names = os.listdir(folder)
        for name in names:
            if os.path.islink(f"{folder}/{name}") and os.readlink(f"{folder}/{name}") == f"../{cache_id}/diff":
                root.tell("remove", f"{folder}/{name}")
                os.unlink(f"{folder}/{name}")
    except FileNotFoundError:
        return


class RWLayer:
    """What a container writes into: the names of its two directories and the layers below.

    Shape: lowers: below the container's own directory, the init layer's name first, as mount takes them;
           image_lowers: the same without the init layer; init_diff: path of the init layer's content, to be filled
    """

    __slots__ = ("chain_id", "container_id", "image_lowers", "init_diff", "init_id", "lowers", "mount_id")

    def __init__(
        self,
        container_id: ContainerID,
        mount_id: CacheID,
        init_id: CacheID,
        chain_id: ChainID,
        lowers: list[str],
        init_diff: str,
    ) -> None:
        self.container_id = container_id
        self.mount_id = mount_id
        self.init_id = init_id
        self.chain_id = chain_id
        self.lowers = lowers
        self.image_lowers = lowers[1:]
        self.init_diff = init_diff


def create_rw(root: DataRoot, stage: Stage, container_id: ContainerID, chain_id: ChainID | None) -> RWLayer:
    """Make a container's init and rw directories above an image, and the record that keeps the image's layers.

    Shape:   chain_id None for an image without layers
    Until containers/<container_id>/config.v2.json exists, the stage's end takes all of it back.
    Raises:  StoreCorrupt, NoSuchLayer, SyscallError
    """
    mount_id = CacheID(random_hex64())
    init_id = CacheID(mount_id + "-init")
    with root.lock(shared=True):
        image_lowers: list[str] = []
        if chain_id:
            cache_ids = root.layers.directories(chain_id)
            image_lowers = [f"l/{link_id}" for link_id in check_stack(root.overlay_path, cache_ids)]
            commit_directory(f"{root.overlay_path}/{cache_ids[0]}")
        stage.mark("container", f"{container_id}.{mount_id}")
        lowers = image_lowers
        for cache_id in (init_id, mount_id):
            path = stage.new_path("tree")
            link_id = LinkID.random()
            prepare_directory(path, link_id)
            add_lowers(path, lowers)
            if cache_id == init_id:
                commit_directory(path)
                lowers = [f"l/{link_id}", *image_lowers]
            publish_directory(root, path, cache_id, link_id)
        record = stage.new_path("mount-record")
        make_directory(record, 0o755)
        write_new(f"{record}/mount-id", mount_id.encode("ascii"), 0o644)
        write_new(f"{record}/init-id", init_id.encode("ascii"), 0o644)
        if chain_id:
            write_new(f"{record}/parent", chain_id.encode("ascii"), 0o644)
        target = f"{root.layers.mounts_path}/{container_id}"
        root.tell("write", target)
        os.rename(record, target)
    init_diff = f"{root.overlay_path}/{init_id}/diff"
    return RWLayer(container_id, mount_id, init_id, chain_id or ChainID(""), lowers, init_diff)


def read_rw(root: DataRoot, container_id: str) -> RWLayer:
    """The rw layer of a container by layerdb/mounts, every name checked; raises NoSuchContainer, StoreCorrupt."""
    record = f"{root.layers.mounts_path}/{ContainerID.parse(container_id)}"
    try:
        mount_id = CacheID.parse(read_small(f"{record}/mount-id").decode("ascii", "replace").strip())
        init_id = _optional(f"{record}/init-id")
        parent = _optional(f"{record}/parent")
        chain_id = ChainID.parse(parent) if parent else ChainID("")
        if init_id:
            CacheID.parse(init_id)
    except FileNotFoundError:
        raise NoSuchContainer(f"layerdb has no mount record of container {container_id[:12]}") from None
    except (OSError, FormatError) as error:
        raise _corrupt(record, getattr(error, "strerror", None) or error) from None
    lowers = read_lowers(root.overlay_path, mount_id)
    init_diff = f"{root.overlay_path}/{init_id}/diff" if init_id else ""
    return RWLayer(ContainerID(container_id), mount_id, CacheID(init_id), chain_id, lowers, init_diff)


def check_rw(root: DataRoot, layer: RWLayer) -> None:
    """Make sure that a container still stands on all of its layers; raises StoreCorrupt, naming what is missing."""
    cache_ids: list[str] = [layer.mount_id]
    if layer.init_id:
        cache_ids.append(layer.init_id)
    if layer.chain_id:
        cache_ids += root.layers.directories(layer.chain_id)
    check_stack(root.overlay_path, cache_ids)


def _optional(path: str) -> str:
    try:
        return read_small(path).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""


def rw_lowers(root: DataRoot, mount_id: str) -> list[str]:
    """The `l/<link_id>` names below a container's directory, topmost first, each checked; raises StoreCorrupt."""
    return read_lowers(root.overlay_path, mount_id)


def remove_rw(root: DataRoot, stage: Stage, container_id: ContainerID) -> None:
    """Remove a container's two directories, then its mount record; the caller removes containers/<id> after it.

    Once begun, a crash has the next sweep finish it, containers/<container_id> included.
    Raises: Conflict when something is mounted in one of the three directories, before anything is removed
    """
    record = f"{root.layers.mounts_path}/{ContainerID.parse(container_id)}"
    try:
        mount_id = CacheID.parse(read_small(f"{record}/mount-id").decode("ascii", "replace").strip())
    except FileNotFoundError:
        refuse_mounted(f"{root.containers.path}/{container_id}")
        return
    except FormatError as error:
        raise _corrupt(record, error) from None
    table = read_table("/proc/self/mountinfo")
    if container_id.encode() in table or mount_id.encode() in table:
        from minidock.store.views import unmount_views_of

        unmount_views_of(container_id, mount_id)
        for path in (f"{root.overlay_path}/{mount_id}", f"{root.overlay_path}/{mount_id}-init"):
            refuse_mounted(path)
        refuse_mounted(f"{root.containers.path}/{container_id}")
    stage.mark("remove", f"{container_id}.{mount_id}")
    delete_rw(root, container_id, mount_id, is_checked=True)


def delete_rw(root: DataRoot, container_id: ContainerID, mount_id: str, *, is_checked: bool = False) -> None:
    """Delete what there is of a container's directories and mount record, in the engine's order."""
    try:
        mount_id = CacheID.parse(mount_id).removesuffix("-init")
    except FormatError:
        return
    delete_directory(root, mount_id, is_checked=is_checked)
    delete_directory(root, mount_id + "-init", is_checked=is_checked)
    handle = os.open(root.layers.mounts_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        delete_tree(handle, container_id)
    finally:
        os.close(handle)


class OverlayMount:
    """One overlay of layers, described by names relative to overlay2/ so that 125 of them fit the option page.

    Shape:  lowers: `l/<link_id>`, topmost first; mount_id: the directory with diff and work, empty for a read-only
            overlay; target: absolute path, or relative to overlay2/; marks: those of the topmost layer that are to be
            followed, see upper.marks_in; data: the option string for mount(2)
    Raises: MaxDepthExceeded
    """

    __slots__ = ("data", "lowers", "mount_id", "overlay_path", "target")

    def __init__(self, overlay_path: str, lowers: list[str], mount_id: str, target: str, *, marks: str = "") -> None:
        if len(lowers) > MAX_LOWERS:
            raise MaxDepthExceeded(f"{len(lowers)} layers, more than the {MAX_LOWERS} that one overlay can have")
        self.overlay_path = overlay_path
        self.lowers = lowers
        self.mount_id = mount_id
        self.target = target
        redirect = "follow" if marks else "off"
        if marks == "metacopy" and mount_id:
            # One that writes has both or none.
            redirect = "on"
        self.data = os.fsencode(self._options(redirect, "on" if marks == "metacopy" else "off"))

    def _options(self, redirect: str, metacopy: str) -> str:
        """The option string: redirect_dir, metacopy and index off wherever the kernel knows them.

        With any of them on, the upper directory would no longer say by itself what changed, and a commit of it takes
        the long way. Raises MaxDepthExceeded when it does not fit one page.
        """
        settings = (("index", "off"), ("redirect_dir", redirect), ("metacopy", metacopy))
        words = [f"{name}={value}" for name, value in settings if _has_parameter(name)]
        words.append("lowerdir=" + ":".join(self.lowers))
        if self.mount_id:
            words += [f"upperdir={self.mount_id}/diff", f"workdir={self.mount_id}/work"]
        text = ",".join(words)
        if len(text) > _PAGE_BYTES - 1:
            raise MaxDepthExceeded(
                f"the mount options of {len(self.lowers)} layers take {len(text)} bytes, more than a page holds"
            )
        return text

    def describe(self) -> str:
        """A shell line that makes the same mount."""
        from minidock.linux.mount import describe_mount, shell_word

        line = describe_mount(b"overlay", os.fsencode(self.target), b"overlay", 0, self.data)
        return f"cd {shell_word(self.overlay_path)} && {line}"

    def execute(self) -> None:
        """Mount it. Changes the working directory to overlay2/, so it belongs into a process of its own."""
        from minidock.linux.mount import mount

        os.chdir(self.overlay_path)
        mount(b"overlay", os.fsencode(self.target), b"overlay", 0, self.data)


def _has_parameter(name: str) -> bool:
    # Where the module is only loaded by the mount itself, nothing is to be seen yet; such kernels know all three.
    parameters = "/sys/module/overlay/parameters"
    return os.path.exists(f"{parameters}/{name}") or not os.path.isdir(parameters)
