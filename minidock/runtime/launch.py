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
    from collections.abc import Callable
    from typing import NoReturn

    from minidock.runtime.joined import Joined
    from minidock.runtime.remapped import Remapped
    from minidock.trace import Trace

__all__ = ("BindMount", "ContainerSpec", "ExecSpec", "Launched", "Preparation", "TmpfsMount", "launch")


class Preparation:
    """What of a launch needs nothing but its specification, and opens nothing: it can be ready before its process is.

    Shape:  mask: of capabilities; group: still to be made; plan: None where other containers' namespaces or a user
            namespace have to be opened for it; good for one launch
    Raises: UsageError
    """

    __slots__ = ("group", "mask", "mounted", "payload", "plan")

    def __init__(self, spec: ContainerSpec) -> None:
        if not spec.argv:
            raise UsageError("no command specified")
        self.mask = allowed_capabilities(spec.cap_add, spec.cap_drop, privileged=spec.privileged)
        self.payload = Payload(
            spec.argv,
            environment(spec.env, hostname=spec.hostname, tty=spec.tty),
            spec.cwd,
            capabilities=self.mask,
            keyring="_ses." + spec.container_id,
            no_new_privileges=spec.no_new_privileges,
            seccomp_filter=spec.seccomp_filter,
            init=spec.init,
        )
        self.mounted = hierarchies()
        self.group = Cgroup.named(spec.container_id, spec.cgroup_parent, mounted=self.mounted)
        opens = spec.isolation is not None and (spec.isolation.joins or spec.isolation.user_map)
        self.plan = None if opens else build_plan(spec, self.mounted, self.group)


def launch(
    spec: ContainerSpec,
    *,
    stdin_fd: int,
    stdout_fd: int,
    stderr_fd: int,
    trace: Trace | None = None,
    prepared: Preparation | None = None,
    ready: Callable[[], None] | None = None,
) -> Launched:
    """Start a container's first process; it ends with this process.

    Shape:   the three descriptors become its standard ones, unless spec.tty; the caller has one thread; prepared: what
             may be at hand; ready: called while the process makes its root, which does not run its program before
    Returns: Launched, once the program runs
    Raises:  CommandError 126 or 127 when the program cannot be executed; UsageError; SyscallError.
             Nothing is left behind then.
    """
    prepared = prepared or Preparation(spec)
    joined: Joined | None = None
    if spec.isolation is not None and spec.isolation.joins is not None:
        joined = spec.isolation.joins.open()
    remapped: Remapped | None = None
    try:
        if spec.isolation is not None and spec.isolation.user_map is not None:
            from minidock.runtime.remapped import Remapped

            own = joined.open_user_namespace() if joined is not None else -1
            remapped = Remapped(spec.isolation.user_map, own)
        return _launch(spec, prepared, joined, remapped, (stdin_fd, stdout_fd, stderr_fd), trace, ready)
    finally:
        if remapped is not None:
            remapped.close()
        if joined is not None:
            joined.close()


def _launch(
    spec: ContainerSpec,
    prepared: Preparation,
    joined: Joined | None,
    remapped: Remapped | None,
    standard: tuple[int, int, int],
    trace: Trace | None,
    ready: Callable[[], None] | None,
) -> Launched:
    group = prepared.group
    try:
        group.make(trace, v2=True)
        plan = prepared.plan or build_plan(spec, prepared.mounted, group, joined, remapped)
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
            setup.await_parent()
            settle(prepared.payload, setup.user, channels, setup.root_fd, setup.console_fd)

        start_times: dict[int, int] = {}

        def make_group(_: int) -> None:
            _make_group(spec, group, trace)
            if trace:
                from minidock.runtime.replay import trace_start

                trace_start(trace, spec, plan, prepared.mask)

        def be_ready(pid: int) -> None:
            start_times[pid] = start_time_of(pid)
            if ready is not None:
                ready()

        parts = [make_group, be_ready]
        if spec.places is not None:
            parts.insert(1, spec.places.connect)
        try:
            for operation in plan:
                operation.prepare()
            if pid_space >= 0 and not exchange.joins:
                from minidock.runtime.joined import InPidNamespace

                with InPidNamespace(pid_space):
                    pid, pidfd, console = clone_and_settle(flags, exchange, work, group, parts)
            else:
                pid, pidfd, console = clone_and_settle(flags, exchange, work, group, parts)
        finally:
            for operation in plan:
                operation.forget()
        if trace:
            from minidock.runtime.replay import trace_end

            trace_end(trace, spec)
    except BaseException:
        _remove_quietly(group)
        raise
    return Launched(pid, pidfd, console, group, start_times.get(pid) or start_time_of(pid))


def _make_group(spec: ContainerSpec, group: Cgroup, trace: Trace | None) -> None:
    """Make what is missing of the groups, with all that they allow and limit."""
    group.make(trace, v2=False)
    extra = spec.isolation.allowed_devices() if spec.isolation is not None else ()
    devices.restrict(group, privileged=spec.privileged, extra=extra, trace=trace)
    if spec.limits:
        from minidock.runtime.limits import apply_limits

        apply_limits(group, spec.limits, trace)


def _remove_quietly(group: Cgroup) -> None:
    """Clean-up that must not hide the first error."""
    try:
        group.remove()
    except MinidockError:
        return
