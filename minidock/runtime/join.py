"""A further process in a running container (`docker exec`).

The child joins the container's namespaces through the pidfd that names its first process, so no pid can be
mistaken for another. It stays outside the pid namespace until it has become the trampoline, which clones the
process into it: a container may be given SYS_PTRACE, against which not being dumpable does not help, so this
interpreter with its memory, descriptors, capabilities and /proc/PID/exe (CVE-2019-5736) never shows inside.
Where there is no trampoline the child is cloned right into the pid namespace, not dumpable.
Source: setns(2), "fd refers to a process"; prctl(2), PR_SET_DUMPABLE
"""

from __future__ import annotations

import os
import select

from minidock.errors import CommandError, ContainerNotRunning, SyscallError, UsageError
from minidock.linux.namespaces import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    set_namespaces,
)
from minidock.linux.process import PR_GET_DUMPABLE, SIGKILL, prctl, set_dumpable, set_parent_death_signal, start_time_of
from minidock.runtime.cgroup import Cgroup
from minidock.runtime.child import Channels, Payload, settle
from minidock.runtime.exchange import Exchange, allowed_capabilities, clone_and_settle
from minidock.runtime.monitor import Launched
from minidock.runtime.operation import Setup
from minidock.runtime.spec import ExecSpec, environment
from minidock.runtime.users import resolve_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from minidock.runtime.usermap import UserMap
    from minidock.trace import Trace

__all__ = ("ExecPreparation", "ExecSpec", "exec_process")

_JOINED = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP
_ESRCH = 3


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


class ExecPreparation:
    """What of an exec needs no more than what is known of the container, and opens nothing.

    A forked process copies each page that it touches, so this is made before there is one.

    Shape:  group: in which the container's process is; user_map: of its user namespace, None without one
    Raises: ContainerNotRunning, UsageError
    """

    __slots__ = ("group", "payload", "user_map")

    def __init__(self, pid: int, pidfd: int, spec: ExecSpec) -> None:
        if not spec.argv:
            raise UsageError("no command specified")
        self.group = Cgroup.of_process(pid)
        if _has_ended(pidfd):
            raise ContainerNotRunning(f"the container's process {pid} is not running")
        self.user_map = _user_map(spec, pid, pidfd)
        self.payload = Payload(
            spec.argv,
            environment(spec.env, hostname=spec.hostname, tty=spec.tty),
            spec.cwd,
            capabilities=allowed_capabilities(spec.cap_add, spec.cap_drop, privileged=spec.privileged),
            keyring="_ses",
            no_new_privileges=spec.no_new_privileges,
            seccomp_filter=spec.seccomp_filter,
            init=False,
        )


def _user_map(spec: ExecSpec, pid: int, pidfd: int) -> UserMap | None:
    """The IDs of the container's user namespace, None without one; raises ContainerNotRunning."""
    if not spec.is_remapped:
        return None
    from minidock.runtime.usermap import user_map_of

    user_map = user_map_of(pid)
    if _has_ended(pidfd):
        raise ContainerNotRunning(f"the container's process {pid} is not running")
    return user_map


def exec_process(
    pid: int,
    pidfd: int,
    spec: ExecSpec,
    *,
    stdin_fd: int,
    stdout_fd: int,
    stderr_fd: int,
    trace: Trace | None = None,
    prepared: ExecPreparation | None = None,
) -> Launched:
    """Start a process in the container whose first process is pid; it ends with this process.

    Shape:   pidfd names pid; the caller has one thread; the descriptors as in launch; prepared: what may be at hand
    Returns: Launched, a child of the caller, once the program runs
    Raises:  ContainerNotRunning; CommandError 126 or 127; SyscallError
    """
    prepared = prepared or ExecPreparation(pid, pidfd, spec)
    group, payload, user_map = prepared.group, prepared.payload, prepared.user_map
    if trace:
        trace("clone", f"nsenter --target {pid} --mount --uts --ipc --net --cgroup --pid")
        trace("exec", " ".join(spec.argv))
    if spec.tty:
        # Now, since once inside the child finds no module any more.
        from minidock.runtime.devices import open_terminal
    exchange = Exchange(spec.tty, joins=True, apparmor=spec.apparmor)
    channels = Channels(
        (stdin_fd, stdout_fd, stderr_fd),
        exchange.error_write,
        exchange.life_read,
        exchange.trampoline,
        joins=exchange.joins,
        place=exchange.place,
    )
    later = CLONE_NEWPID if exchange.joins else 0
    setup = Setup(exchange.send_console)

    def work() -> NoReturn:
        set_parent_death_signal(SIGKILL)
        os.setsid()
        os.umask(0)
        group.enter()
        if spec.isolation is not None:
            for operation in spec.isolation.start_operations():
                operation.execute(setup)
        if user_map is not None:
            from minidock.runtime.remapped import become_root

            user_map.give_streams(channels.standard)
            set_namespaces(pidfd, _JOINED | CLONE_NEWUSER | later)
            become_root()
        else:
            set_namespaces(pidfd, _JOINED | later)
        root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        user = resolve_user(root_fd, spec.user, spec.group_add)
        if user_map is not None:
            user_map.check(user)
        console_fd = -1
        if spec.tty:
            master, console_fd = open_terminal(root_fd)
            exchange.send_console(master)
            os.close(master)
        settle(payload, user, channels, root_fd, console_fd)

    dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)
    own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        set_dumpable(False)
        if not exchange.joins:
            set_namespaces(pidfd, CLONE_NEWPID)
        child, child_pidfd, console = clone_and_settle(0, exchange, work, group)
    except CommandError:
        if _has_ended(pidfd):
            raise ContainerNotRunning(f"the container's process {pid} is not running") from None
        raise
    except UsageError as error:
        raise CommandError(error.message, exit_code=126) from None
    except SyscallError as error:
        # A process on its way out has no namespaces a moment before its pidfd tells; its groups go when it has ended.
        if error.errno == _ESRCH or _has_ended(pidfd):
            raise ContainerNotRunning(f"the container's process {pid} is not running") from None
        raise
    finally:
        set_namespaces(own_namespace, CLONE_NEWPID)
        if dumpable == 1:
            set_dumpable(True)
        os.close(own_namespace)
    return Launched(child, child_pidfd, console, group, start_time_of(child))
