"""The parent's side of a container's start: groups, plan, clone."""

from __future__ import annotations

import os

from minidock.errors import MinidockError, UsageError
from minidock.linux.namespaces import CLONE_NEWPID
from minidock.linux.process import SIGKILL, set_dumpable, set_parent_death_signal, start_time_of
from minidock.runtime import devices
from minidock.runtime.cgroup import Cgroup, hierarchies
from minidock.runtime.child import Channels, Payload, settle
from minidock.runtime.exchange import Exchange, allowed_capabilities, clone_and_settle
from minidock.runtime.monitor import Launched
from minidock.runtime.operation import Setup
from minidock.runtime.plan import build_plan, first_flags
from minidock.runtime.spec import BindMount, ContainerSpec, ExecSpec, TmpfsMount, environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from minidock.runtime.joined import Joined
    from minidock.runtime.remapped import Remapped
    from minidock.trace import Trace

__all__ = ("BindMount", "ContainerSpec", "ExecSpec", "Launched", "TmpfsMount", "launch")


def launch(
    spec: ContainerSpec, *, stdin_fd: int, stdout_fd: int, stderr_fd: int, trace: Trace | None = None
) -> Launched:
    """Start a container's first process; it ends with this process.

    Shape:   the three descriptors become its standard ones, unless spec.tty; the caller has one thread
    Returns: Launched, once the program runs
    Raises:  CommandError 126 or 127 when the program cannot be executed; UsageError; SyscallError.
             Nothing is left behind then.
    """
    if not spec.argv:
        raise UsageError("no command specified")
    mask = allowed_capabilities(spec.cap_add, spec.cap_drop, privileged=spec.privileged)
    payload = Payload(
        spec.argv,
        environment(spec.env, hostname=spec.hostname, tty=spec.tty),
        spec.cwd,
        capabilities=mask,
        keyring="_ses." + spec.container_id,
        no_new_privileges=spec.no_new_privileges,
        seccomp_filter=spec.seccomp_filter,
        init=spec.init,
    )
    joined: Joined | None = None
    if spec.isolation is not None and spec.isolation.joins is not None:
        joined = spec.isolation.joins.open()
    remapped: Remapped | None = None
    try:
        if spec.isolation is not None and spec.isolation.user_map is not None:
            from minidock.runtime.remapped import Remapped

            own = joined.open_user_namespace() if joined is not None else -1
            remapped = Remapped(spec.isolation.user_map, own)
        return _launch(spec, payload, mask, joined, remapped, (stdin_fd, stdout_fd, stderr_fd), trace)
    finally:
        if remapped is not None:
            remapped.close()
        if joined is not None:
            joined.close()


def _launch(
    spec: ContainerSpec,
    payload: Payload,
    mask: int,
    joined: Joined | None,
    remapped: Remapped | None,
    standard: tuple[int, int, int],
    trace: Trace | None,
) -> Launched:
    mounted = hierarchies()
    group = Cgroup.create(spec.container_id, spec.cgroup_parent, mounted=mounted, trace=trace)
    try:
        plan = build_plan(spec, mounted, group, joined, remapped)
        extra = spec.isolation.allowed_devices() if spec.isolation is not None else ()
        devices.restrict(group, privileged=spec.privileged, extra=extra, trace=trace)
        if spec.limits:
            from minidock.runtime.limits import apply_limits

            apply_limits(group, spec.limits, trace)
        if trace:
            from minidock.runtime.replay import trace_end, trace_start

            trace_start(trace, spec, plan, mask)
        pid_space = joined.pidfd_of(CLONE_NEWPID) if joined is not None else -1
        exchange = Exchange(spec.tty, joins=pid_space >= 0, hands_over=remapped is not None, apparmor=spec.apparmor)
        channels = Channels(
            standard,
            exchange.error_write,
            exchange.life_read,
            exchange.trampoline,
            joins=exchange.joins,
            place=exchange.place,
        )
        setup = Setup(exchange.send_console, exchange.tell_pid, standard)
        setup.parent_fd = exchange.life_read
        flags = first_flags(spec)

        def work() -> NoReturn:
            set_dumpable(False)
            set_parent_death_signal(SIGKILL)
            os.setsid()
            os.umask(0)
            for operation in plan:
                operation.execute(setup)
            assert setup.user is not None
            if remapped is not None:
                remapped.user_map.check(setup.user)
            settle(payload, setup.user, channels, setup.root_fd, setup.console_fd)

        try:
            for operation in plan:
                operation.prepare()
            connect = spec.places.connect if spec.places is not None else None
            if pid_space >= 0 and not exchange.joins:
                from minidock.runtime.joined import InPidNamespace

                with InPidNamespace(pid_space):
                    pid, pidfd, console = clone_and_settle(flags, exchange, work, group, connect)
            else:
                pid, pidfd, console = clone_and_settle(flags, exchange, work, group, connect)
        finally:
            for operation in plan:
                operation.forget()
        if trace:
            trace_end(trace, spec)
    except BaseException:
        _remove_quietly(group)
        raise
    return Launched(pid, pidfd, console, group, start_time_of(pid))


def _remove_quietly(group: Cgroup) -> None:
    """Clean-up that must not hide the first error."""
    try:
        group.remove()
    except MinidockError:
        return
