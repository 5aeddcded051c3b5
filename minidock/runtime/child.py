"""The child's side: run the plan, become the container's user, execute its program.

Everything used here is imported and opened before the clone. Once the root has changed, an import or a
look-up by name would take code from the container, so nothing here does either.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import fcntl
import os

from minidock.errors import CommandError, MinidockError, SyscallError
from minidock.linux import cdata
from minidock.linux.capabilities import SYS_ADMIN, drop_bounding_except, keep_over_setuid, set_exactly
from minidock.linux.paths import open_in_root
from minidock.linux.process import (
    PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS,
    SIGKILL,
    clone_sibling,
    close_from,
    close_on_exec_from,
    exec_descriptor,
    exec_program,
    join_new_session_keyring,
    prctl,
    set_dumpable,
    set_parent_death_signal,
)
from minidock.linux.seccomp import PreparedFilter
from minidock.runtime.users import User

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from minidock.runtime.apparmor import Place

_TIOCSCTTY, _TIOCSPGRP = 0x540E, 0x5410
_S_IFIFO, _S_IFMT, _S_IFDIR = 0o010000, 0o170000, 0o040000
_REFUSED = 255
_EXEC_MESSAGES = {errno.ENOEXEC: "exec format error", errno.ENOENT: "no such file or directory"}


class Payload:
    """The process to become, ready before the clone.

    Shape: capabilities: a bit mask; keyring: the session keyring's name; cwd as bytes, absolute;
           seccomp_filter: a program for seccomp(2), empty for none
    """

    __slots__ = (
        "argv",
        "capabilities",
        "cwd",
        "env",
        "init",
        "init_title",
        "keyring",
        "no_new_privileges",
        "seccomp_filter",
    )

    def __init__(
        self,
        argv: Sequence[str],
        env: Sequence[str],
        cwd: str,
        *,
        capabilities: int,
        keyring: str,
        no_new_privileges: bool,
        init: bool,
        seccomp_filter: bytes = b"",
    ) -> None:
        self.argv = [os.fsencode(word) for word in argv]
        self.env = [os.fsencode(entry) for entry in env]
        self.cwd = os.fsencode(cwd)
        self.capabilities = capabilities
        self.keyring = keyring.encode("ascii", "replace")
        self.no_new_privileges = no_new_privileges
        self.seccomp_filter = PreparedFilter(seccomp_filter) if seccomp_filter else None
        self.init = init
        self.init_title = _InitTitle(self.argv) if init else None


class Channels:
    """The child's ends: three standard descriptors, error pipe, a pipe that ends with the parent, trampoline.

    Shape: joins: the trampoline clones into another pid namespace, and the clone is the process; place: where the
           trampoline finds what it needs to take an AppArmor profile on, None for no profile
    """

    __slots__ = ("error_fd", "joins", "parent_fd", "place", "standard", "trampoline_fd")

    def __init__(
        self,
        standard: tuple[int, int, int],
        error_fd: int,
        parent_fd: int,
        trampoline_fd: int | None,
        *,
        joins: bool = False,
        place: Place | None = None,
    ) -> None:
        self.joins = joins
        self.place = place
        self.standard = standard
        self.trampoline_fd = trampoline_fd
        self.error_fd = error_fd
        self.parent_fd = parent_fd

    def die_with_parent(self) -> None:
        """Tie this process to its parent; checked after, since the parent may have ended just before."""
        set_parent_death_signal(SIGKILL)
        os.set_blocking(self.parent_fd, False)
        try:
            if not os.read(self.parent_fd, 1):
                os._exit(SIGKILL)
        except BlockingIOError:
            return


def report(error_fd: int, error: BaseException) -> None:
    """Tell the parent through the error pipe why there will be no program."""
    if isinstance(error, CommandError):
        fields = ["C", str(error.exit_code), error.message]
    elif isinstance(error, SyscallError):
        fields = ["S", str(error.errno), error.call]
    elif isinstance(error, MinidockError):
        fields = ["U", "125", error.message]
    elif isinstance(error, OSError):
        fields = ["S", str(error.errno or 0), f"{os.fsdecode(error.filename or b'')}"]
    else:
        fields = ["U", "125", f"internal error: {type(error).__name__}: {error}"]
    os.write(error_fd, "\0".join(fields).encode("utf-8", "surrogateescape")[:4096])


def settle(payload: Payload, user: User, channels: Channels, root_fd: int, console_fd: int) -> NoReturn:
    """Take on standard descriptors, user, capabilities and directory, then execute the program.

    Shape:  root_fd: the container's root; console_fd: the slave of its terminal, -1 without one

    Raises: CommandError 126 or 127, SyscallError
    """
    join_new_session_keyring(payload.keyring)
    _take_standard(channels, console_fd, user)
    entered = _enter_directory(root_fd, payload.cwd, retry=True)
    # a filter may only be loaded with SYS_ADMIN or without the hope for new privileges
    kept = SYS_ADMIN if payload.seccomp_filter is not None and not payload.no_new_privileges else 0
    # what exec leaves to any other user; with more, a look for its program would find what it may not
    held = 0 if user.uid else payload.capabilities
    _become(user, payload.capabilities, held, kept)
    if not entered:
        _enter_directory(root_fd, payload.cwd, retry=False)
    if payload.no_new_privileges:
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    environment = with_home(payload.env, user.home)
    channels.die_with_parent()
    program = find_program(payload.argv[0], environment)
    _default_signals()
    os.umask(0o022)
    close_on_exec_from(3)
    if channels.place is not None:
        channels.place.fill(root_fd)
    if payload.seccomp_filter is not None:
        _confine(payload.seccomp_filter, held, kept)
    if payload.init:
        _become_init(payload, channels.place, has_terminal=console_fd >= 0)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    try:
        if channels.trampoline_fd is not None:
            os.write(channels.error_fd, b"P" + program + b"\0")
            os.set_inheritable(channels.error_fd, True)
            if channels.joins:
                os.set_inheritable(channels.parent_fd, True)
            try:
                exec_descriptor(channels.trampoline_fd, [program, *payload.argv], environment)
            except SyscallError as error:
                if error.errno != errno.ENOENT:
                    raise
            # With TOMOYO, Linux 5.10 looks up /dev/fd/N by name, which need not be in the container, and which leads
            # nowhere for a process outside the pid namespace of the container's /proc; 6.1 does not.
            os.set_inheritable(channels.error_fd, False)
            if channels.joins:
                _enter_as_we_are(channels, program, payload.argv, environment, has_terminal=console_fd >= 0)
        if channels.place is not None:
            channels.place.take_on()
        exec_program(program, payload.argv, environment)
    except SyscallError as error:
        raise exec_error(program, error.errno or 0) from None
    os._exit(126)


def _enter_as_we_are(
    channels: Channels, program: bytes, argv: Sequence[bytes], environment: Sequence[bytes], *, has_terminal: bool
) -> NoReturn:
    """What the trampoline does for a process that joins, where the kernel does not execute it there.

    What shows inside until the program runs is this interpreter, not dumpable.
    """
    pid = clone_sibling()
    if pid:
        os.write(channels.error_fd, pid.to_bytes(8, "little"))
        os._exit(0)
    channels.die_with_parent()
    os.set_inheritable(channels.parent_fd, False)
    os.setsid()
    if has_terminal:
        fcntl.ioctl(0, _TIOCSCTTY, 0)
    try:
        if channels.place is not None:
            channels.place.take_on()
        exec_program(program, argv, environment)
    except SyscallError as error:
        os.write(channels.error_fd, (-(error.errno or 1)).to_bytes(8, "little", signed=True))
    os._exit(126)


def exec_error(program: bytes, errno_value: int) -> CommandError:
    """Why execve(2) refused a program that is there: a foreign architecture, say, or a missing interpreter.

    Source: runc 1.2 and newer, libcontainer/init_linux.go: 255 (docker 28.5); older ones gave 1
    """
    message = _EXEC_MESSAGES.get(errno_value, os.strerror(errno_value).lower())
    return CommandError(f"exec {os.fsdecode(program)}: {message}", exit_code=_REFUSED)


def _take_standard(channels: Channels, console_fd: int, user: User) -> None:
    if console_fd >= 0:
        source = (console_fd, console_fd, console_fd)
        if not channels.joins:
            fcntl.ioctl(console_fd, _TIOCSCTTY, 0)
    else:
        source = channels.standard
    # first out of the way, so that no order of the three can overwrite one still needed
    moved = [fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 10) for handle in source]
    for number, handle in enumerate(moved):
        os.dup2(handle, number)
    if user.uid:
        for number in (0, 1, 2):
            _give(number, user.uid, is_terminal=console_fd >= 0)


def _give(handle: int, uid: int, *, is_terminal: bool) -> None:
    """Give our own pipe or terminal to the user, so that it can open /dev/stdout anew.

    Source: runc libcontainer, fixStdioPermissions
    """
    status = os.fstat(handle)
    if status.st_uid != uid and (is_terminal or status.st_mode & _S_IFMT == _S_IFIFO):
        try:
            os.fchown(handle, uid, status.st_gid)
        except OSError:
            return


def _enter_directory(root_fd: int, path: bytes, *, retry: bool) -> bool:
    """Change into the working directory and make sure that it is in the container (CVE-2024-21626).

    Links such as /proc/self/fd/3 are not followed, and what getcwd says must be a path in the container.
    """
    try:
        handle = open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY)
        try:
            os.fchdir(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno == errno.EACCES and retry:
            return False
        raise _cwd_error(path, (error.strerror or "").lower()) from None
    try:
        where = os.getcwdb()
    except OSError:
        where = b""
    if not where.startswith(b"/"):
        raise _cwd_error(path, "it is outside the container")
    return True


def _cwd_error(path: bytes, reason: str) -> CommandError:
    return CommandError(f'chdir to cwd ("{os.fsdecode(path)}") failed: {reason}', exit_code=126)


def _become(user: User, bounding: int, held: int, kept: int) -> None:
    """Take on user, groups and exactly these capabilities, in the one order that works.

    Shape:  held: what is permitted and in effect; kept: what stays permitted but is not in effect
    Source: moby oci/oci.go, SetCapabilities: only root has them before exec
    """
    drop_bounding_except(bounding)
    keep_over_setuid(True)
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    keep_over_setuid(False)
    set_exactly(held, permitted_too=kept)


def _confine(seccomp_filter: PreparedFilter, capabilities: int, kept: int) -> None:
    """Load the filter as the last thing but exec: what remains to be done must pass it, so that is little."""
    if kept:
        set_exactly(capabilities | kept)
    seccomp_filter.load()
    if kept:
        set_exactly(capabilities)


def _default_signals() -> None:
    """Undo what this interpreter ignores; handlers end with exec anyway. Signals stay blocked until then."""
    for number in range(1, 65):
        try:
            if _signal.getsignal(number) is not _signal.SIG_DFL:
                _signal.signal(number, _signal.SIG_DFL)
        except (ValueError, OSError):
            continue


def with_home(environment: Sequence[bytes], home: str) -> list[bytes]:
    """The environment with HOME, unless it names one already. Source: runc, setupUser and its HOME"""
    for entry in environment:
        if entry.startswith(b"HOME=") and len(entry) > 5:
            return list(environment)
    kept = [entry for entry in environment if not entry.startswith(b"HOME=")]
    return [*kept, b"HOME=" + os.fsencode(home)]


def find_program(name: bytes, environment: Sequence[bytes]) -> bytes:
    """The path of a program, looked up in the container with its own PATH.

    Raises: CommandError 127 when there is none, 126 when it may not be executed, with docker's words
    Source: Go os/exec, LookPath
    """
    quoted = '"' + os.fsdecode(name) + '"'
    if b"/" in name:
        reason = _program_fault(name)
        if reason == errno.ENOENT:
            raise CommandError(f"exec: {quoted}: stat {os.fsdecode(name)}: no such file or directory", exit_code=127)
        if reason:
            words = "permission denied" if reason == errno.EACCES else os.strerror(reason).lower()
            raise CommandError(f"exec: {quoted}: {words}", exit_code=126)
        return name
    path = next((entry[5:] for entry in environment if entry.startswith(b"PATH=")), b"")
    for directory in path.split(b":") if name else ():
        candidate = (directory or b".") + b"/" + name
        reason = _program_fault(candidate)
        if not reason:
            return candidate
    raise CommandError(f"exec: {quoted}: executable file not found in $PATH", exit_code=127)


def _program_fault(path: bytes) -> int:
    """0 for an executable file, else the errno that says why not."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return error.errno or errno.EACCES
    return 0 if mode & _S_IFMT != _S_IFDIR and mode & 0o111 else errno.EACCES


def _become_init(payload: Payload, place: Place | None, *, has_terminal: bool) -> None:
    """Fork: the child goes on to exec, this process stays as PID 1 and never returns.

    It passes signals to the command, reaps every orphan and ends with the command's status. It stays this
    interpreter, loaded whole before the root changed and closed to /proc/1/exe.
    """
    set_dumpable(False)
    command = os.fork()
    if command == 0:
        os.setpgid(0, 0)
        if has_terminal:
            # the command's group in the foreground, while SIGTTOU is still blocked
            fcntl.ioctl(0, _TIOCSPGRP, os.getpid().to_bytes(4, "little"))
        return
    if place is not None:
        place.take_on_now()
    # the error pipe among them: its end is what tells the parent that the command runs
    close_from(3)
    if os.getuid():
        # what an exec by this user would leave
        set_exactly(0)
    if payload.init_title is not None:
        payload.init_title.show()
    every = _signal.valid_signals()
    while True:
        number = _signal.sigwait(every)
        if number != _signal.SIGCHLD:
            try:
                os.kill(command, number)
            except OSError:
                pass
            continue
        _reap(command)


def _reap(command: int) -> None:
    """Reap all that are dead; the command's own end is ours, 128 + n for a signal."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


class _InitTitle:
    """What `ps` in the container shows for PID 1: not this command's own line, which may hold secrets.

    Source: proc(5), /proc/pid/stat fields 48 and 49: where the arguments lie in memory
    """

    __slots__ = ("name", "room", "text")

    def __init__(self, argv: Sequence[bytes]) -> None:
        with open("/proc/self/stat", "rb", buffering=0) as stat:
            line = stat.read() or b""
        fields = line[line.rfind(b")") + 2 :].split()
        start, end = int(fields[45]), int(fields[46])
        self.name = cdata.create_string_buffer(b"docker-init", 16)
        size_bytes = end - start if start else 0
        self.room = (cdata.c_char * size_bytes).from_address(start)
        text = b" ".join([b"/sbin/docker-init", b"--", *argv])[: max(size_bytes - 2, 0)]
        # a last byte that is not NUL tells the kernel to show one string up to its end, not all of the old room
        self.text = text.ljust(size_bytes - 1, b"\0") + b"\1"

    def show(self) -> None:
        """Write the title over the arguments."""
        prctl(PR_SET_NAME, cdata.addressof(self.name), 0, 0, 0)
        if len(self.room) > 1:
            self.room.raw = self.text


def run_child(work: Callable[[], NoReturn], error_fd: int) -> NoReturn:
    """Run the child's work; whatever happens, it ends here with a report and never returns into the caller."""
    try:
        work()
    except BaseException as error:  # noqa: BLE001
        try:
            report(error_fd, error)
        finally:
            os._exit(125)
    os._exit(125)
