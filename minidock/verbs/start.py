"""docker start: run a container that exists."""

from __future__ import annotations

import os

from minidock.errors import Conflict
from minidock.network.hostfiles import write_etc_files
from minidock.runtime.containerjob import ContainerJob
from minidock.runtime.prepare import container_spec, not_applied
from minidock.runtime.session import Session
from minidock.runtime.settle import SettledLock
from minidock.store.containers import DiskErrors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minidock.runtime.spec import ContainerSpec
    from minidock.store.containers import Container
    from minidock.store.root import DataRoot


def start(
    root: DataRoot,
    container: str,
    *,
    attach: bool = False,
    interactive: bool = False,
    stdin_fd: int = 0,
    stdout_fd: int = 1,
    stderr_fd: int = 2,
    sig_proxy: bool = True,
    detach_keys: str = "",
    warn: Callable[[str], None] | None = None,
    last: bool = False,
) -> int | None:
    """Start a container; one that runs already is left alone.

    Shape:   attach waits for its end with its output on these descriptors, also when it runs already; interactive
             gives it the input too; sig_proxy passes signals on; detach_keys as in attach; warn is called with each
             warning before the command starts; last: as in exec_
    Returns: the exit code when attached (None after the detach keys), else None
    Raises:  NoSuchContainer, UsageError; CommandError 126 or 127 when the command cannot be run
    """
    found = root.containers.get(container)
    keys = parse_keys(detach_keys)
    if found.state.is_restarting() and not attach:
        return None
    fds = stdin_fd, stdout_fd, stderr_fd
    if found.is_running():
        if found.state.status == "paused":
            raise Conflict("cannot start a paused container, try unpause instead")
        return _join(root, found, fds, interactive, keys, sig_proxy=sig_proxy) if attach else None
    if warn is not None and (names := not_applied(found)):
        warn(f"container {found.name} has settings that minidock keeps but does not apply: {', '.join(names)}")
    code = start_container(
        found, attach=attach, interactive=interactive, fds=fds, keys=keys, sig_proxy=sig_proxy, last=last
    )
    if code is ALREADY_RUNNING:
        found.reload()
        return _join(root, found, fds, interactive, keys, sig_proxy=sig_proxy) if attach else None
    return code


# What start_container answers when another command was quicker.
ALREADY_RUNNING = -1


def parse_keys(detach_keys: str) -> bytes:
    """The bytes of detach keys, none for docker's own; raises UsageError."""
    if not detach_keys:
        return b""
    from minidock.runtime.tty import parse_detach_keys

    return parse_detach_keys(detach_keys)


def start_container(
    container: Container,
    *,
    attach: bool,
    interactive: bool,
    fds: tuple[int, int, int],
    keys: bytes = b"",
    sig_proxy: bool = True,
    last: bool = False,
) -> int | None:
    """Start this container; see start.

    Shape:   fds: the caller's input and outputs, -1 for an output that is not wanted; keys: the detach keys' bytes
    Returns: as start; ALREADY_RUNNING when another command has started it meanwhile
    """
    stdin_fd, stdout_fd, stderr_fd = fds
    with SettledLock(container) as lock:
        if container.is_running() or container.state.is_restarting():
            return ALREADY_RUNNING
        # From here to the container's end, and before anything of it is written.
        engine_fd = container.root.hold_against_engine()

        def let_go() -> None:
            lock.release()
            if engine_fd >= 0:
                os.close(engine_fd)
            if spec.places is not None:
                spec.places.close()

        container.forget_asked_end()
        spec = container_spec(container)
        with DiskErrors(f"start container {container.name}"):
            _connect(container, spec)
        session = Session(
            ContainerJob(container, lock, spec, engine_fd, tty=spec.tty),
            attach=attach,
            interactive=interactive,
            opens_stdin=container.config.opens_stdin,
            stdin_fd=stdin_fd,
            stdout_fd=stdout_fd,
            stderr_fd=stderr_fd,
            sig_proxy=sig_proxy,
            detach_keys=keys,
            after_fork=let_go,
            last=last,
        )
        try:
            return session.run()
        except BaseException:
            if spec.places is not None and spec.places.fd >= 0:
                # No monitor has come to be that would do it.
                spec.places.release()
            raise


def _connect(container: Container, spec: ContainerSpec) -> None:
    """Take the container's places on its networks, and write what is bound into its /etc."""
    if spec.network.startswith("container:"):
        return
    if spec.network in ("none", "host"):
        gateway = ""
        if container.config.host_texts("ExtraHosts"):
            from minidock.network.bridge import host_address

            gateway = host_address(container.root)
        write_etc_files(container, network=spec.network, hostname=spec.hostname, host_gateway=gateway)
        return
    from minidock.network.joining import join_networks

    spec.places = places = join_networks(container, spec.hostname)
    try:
        write_etc_files(
            container,
            network=spec.network,
            hostname=spec.hostname,
            lines=places.lines,
            ipv6=places.has_ipv6,
            host_gateway=places.host_gateway,
        )
    except BaseException:
        places.release()
        raise


def _join(
    root: DataRoot, container: Container, fds: tuple[int, int, int], interactive: bool, keys: bytes, *, sig_proxy: bool
) -> int | None:
    """Attach to a container that runs already; to an engine's, which has no monitor, by its log."""
    if not container.state.monitor_pid:
        return _follow(root, container, *fds[1:])
    from minidock.runtime.tty import DETACH_KEYS
    from minidock.verbs.attach import attach_running

    is_tty = container.config.is_tty
    takes_input = interactive and container.config.opens_stdin
    return attach_running(container, (keys or DETACH_KEYS) if is_tty else None, takes_input, fds, sig_proxy=sig_proxy)


def _follow(root: DataRoot, container: Container, stdout_fd: int, stderr_fd: int) -> int:
    """Attach to the output of a container that runs already, from now on."""
    from minidock.verbs.logs import logs
    from minidock.verbs.wait import Ending

    ending = Ending(container)
    for stream, _, data in logs(root, container.id, follow=True, tail=0):
        os.write(stderr_fd if stream == "stderr" else stdout_fd, data)
    return ending.wait()
