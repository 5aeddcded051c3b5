"""Work on a container's whole root, with its volumes, as a directory descriptor: what cp stands on.

running   the root of its first process, held by pidfd: paths below are resolved in the container's own mounts
stopped   its layers mounted for writing, and its volumes on them, in the mount namespace of a child, which does
          the work and takes every mount along when it ends; under a dockerd that is at work on the data root its
          layers are mounted for reading alone
"""

from __future__ import annotations

import errno
import os

from minidock import errors
from minidock.errors import MinidockError, StoreBusy, StoreError, SyscallError
from minidock.linux.mount import MS_PRIVATE, MS_REC, clone_tree, mount, shell_word
from minidock.linux.namespaces import CLONE_NEWNS, unshare
from minidock.linux.process import pidfd_open
from minidock.runtime.attach import refuse_foreign
from minidock.runtime.containermounts import mounts_of
from minidock.runtime.operation import Setup
from minidock.runtime.prepare import overlay_marks
from minidock.runtime.rootfs import BindInto, MountOverlay
from minidock.runtime.settle import SettledLock
from minidock.store.overlay2 import OverlayMount, read_link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from minidock.runtime.spec import BindMount
    from minidock.runtime.usermap import UserMap
    from minidock.store.containers import Container

_ROOT_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def work_in_root(container: Container, act: Callable[[int, UserMap | None], None], *, writes: bool = False) -> None:
    """Call act with a descriptor of the container's root; for a stopped container in a child process.

    Shape:  act: also given the map by which the owners of files are those that the container sees, None where they are;
            writes: act makes files there, which the container's root is then to own
    Raises: what act raises; StoreBusy, StoreCorrupt, SyscallError
    """
    refuse_foreign(container)
    handle = _open_running(container)
    if handle < 0:
        try:
            engine_fd = container.root.hold_against_engine()
        except StoreBusy as busy:
            # Reading does not disturb it.
            if writes:
                raise
            _work_on_layers(container, act, busy)
            return
        try:
            with SettledLock(container):
                handle = _open_running(container)
                if handle < 0:
                    _work_on_layers(container, act)
                    return
        finally:
            if engine_fd >= 0:
                os.close(engine_fd)
    user_map = user_map_of_running(container)
    try:
        if user_map is not None and writes:
            _work_in_child(f"container {container.id.short}", lambda: _act_as_root(handle, user_map, act))
        else:
            act(handle, user_map)
    except (SyscallError, BrokenPipeError):
        raise
    except OSError as error:
        # What a running container changes under our hands.
        raise SyscallError(f"copy {error.filename or ''!r}", error.errno or 5) from None
    finally:
        os.close(handle)


def _open_running(container: Container) -> int:
    """The root of a running container's first process, or -1."""
    container.reload()
    if not container.is_running():
        return -1
    try:
        pidfd = pidfd_open(container.state.pid)
    except SyscallError:
        return -1
    try:
        handle = os.open(f"/proc/{container.state.pid}/root", _ROOT_FLAGS)
        # The number may have gone to another process before; while the pidfd's process lives, it has not.
        if container.is_running():
            return handle
        os.close(handle)
        return -1
    except OSError:
        return -1
    finally:
        os.close(pidfd)


def user_map_of_running(container: Container) -> UserMap | None:
    """The IDs of a running container that has a user namespace; raises SyscallError when it has just ended."""
    if container.config.host_text("UsernsMode") in ("", "host"):
        return None
    from minidock.runtime.usermap import user_map_of

    return user_map_of(container.state.pid)


def _act_as_root(handle: int, user_map: UserMap, act: Callable[[int, UserMap | None], None]) -> None:
    """In a child: no other owner than one of the container's can be given to what is made there."""
    from minidock.linux.capabilities import permitted, set_exactly
    from minidock.linux.userns import set_filesystem_ids

    set_filesystem_ids(*user_map.root())
    set_exactly(permitted())
    act(handle, user_map)


class _ReadOnlyOverlay(MountOverlay):
    """A container's layers without a place to write; busy: why."""

    __slots__ = ("busy",)

    def __init__(self, overlay_path: str, mount_id: str, lowers: Sequence[str], busy: StoreBusy) -> None:
        layers = [f"l/{read_link(overlay_path, mount_id)}", *lowers]
        # Any directory will do to mount on: nobody but the child sees it.
        self.target = self.path = f"{overlay_path}/l"
        self.overlay = OverlayMount(overlay_path, layers, "", self.target, marks="metacopy")
        self.busy = busy

    def execute(self, setup: Setup) -> None:
        self.overlay.execute()

    def forget(self) -> None:
        """Nothing was made for it."""


def _work_on_layers(
    container: Container, act: Callable[[int, UserMap | None], None], busy: StoreBusy | None = None
) -> None:
    layer = container.sound_layer()
    where = container.root.overlay_path, layer.mount_id, layer.lowers
    if busy is None:
        overlay = MountOverlay(*where, marks=overlay_marks(container))
    else:
        overlay = _ReadOnlyOverlay(*where, busy)
    container.root.tell("mount", f"unshare --mount sh -c {shell_word(overlay.describe())}")
    binds = sorted(mounts_of(container)[0], key=lambda bind: bind.target.count("/"))
    try:
        _work_in_child(f"container {container.id.short}", lambda: _mount_and_act(overlay, binds, act))
    finally:
        overlay.forget()


def _work_in_child(what: str, work: Callable[[], None]) -> None:
    """Do some work in a process of its own, in whose namespaces it may mount what it wants; raises what it raises."""
    answer, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(answer)
            _tell_failure(tell, work)
            status = 0
        finally:
            os._exit(status)
    os.close(tell)
    try:
        words = b""
        while chunk := os.read(answer, 1 << 16):
            words += chunk
    finally:
        os.close(answer)
        _, status = os.waitpid(pid, 0)
    if words:
        raise _failure(words.decode("utf-8", "surrogateescape").split("\0"))
    if status:
        raise StoreError(f"the process that worked on {what} was killed")


def _mount_and_act(overlay: MountOverlay, binds: list[BindMount], act: Callable[[int, UserMap | None], None]) -> None:
    setup = Setup(lambda _: None)
    unshare(CLONE_NEWNS)
    mount(None, b"/", None, MS_REC | MS_PRIVATE)
    here = os.open(".", _ROOT_FLAGS)
    overlay.execute(setup)
    setup.root_fd = os.open(overlay.path, _ROOT_FLAGS)
    for bind in binds:
        source = os.fsencode(bind.source)
        if bind.volume is not None:
            from minidock.runtime.volumemount import hold_volume, is_mounted, open_volume

            if isinstance(overlay, _ReadOnlyOverlay) and not is_mounted(bind.source):
                held = open_volume(bind.volume, bind.source)
            else:
                held, _ = hold_volume(bind.volume, bind.source)
        else:
            held = clone_tree(source, recursive=bind.recursive)
        setup.held[os.fsencode(bind.target)] = held
        operation = BindInto(
            bind.source,
            bind.target,
            read_only=bind.read_only,
            recursive=bind.recursive,
            propagation="",
            is_directory=os.path.isdir(source),
        )
        try:
            operation.execute(setup)
        except SyscallError as error:
            if isinstance(overlay, _ReadOnlyOverlay) and error.errno == errno.EROFS:
                # It was never started, so that there is no place yet for what it would see there.
                raise overlay.busy from None
            raise
    os.fchdir(here)
    act(setup.root_fd, None)


def _tell_failure(tell: int, work: Callable[[], None]) -> None:
    try:
        work()
    except BrokenPipeError:
        words = ["BrokenPipeError"]
    except SyscallError as error:
        words = ["SyscallError", error.call, str(error.errno or 5), error.hint or ""]
    except MinidockError as error:
        words = [type(error).__name__, error.message, error.hint or ""]
    except OSError as error:
        words = ["SyscallError", f"{error.filename or 'cp'}", str(error.errno or 5), ""]
    else:
        return
    os.write(tell, "\0".join(words).encode("utf-8", "surrogateescape")[:60000])


def _failure(words: list[str]) -> BaseException:
    if words[0] == "BrokenPipeError":
        return BrokenPipeError()
    if words[0] == "SyscallError":
        return SyscallError(words[1], int(words[2]), hint=words[3])
    kind = getattr(errors, words[0], StoreError)
    made: MinidockError = kind(words[1], hint=words[2]) if words[2] else kind(words[1])
    return made
