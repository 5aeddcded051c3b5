"""The starter's part of one process: the pipes, the fork of the monitor, and waiting while attached."""

from __future__ import annotations

import os

from minidock.runtime.attach import Attachment, Reports, Signals, open_process, receive_descriptor
from minidock.runtime.monitor import Job, Streams, fork_monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_has_forked = False


class Session:
    """Starts a job under a monitor, and stays with it when attached.

    Shape: opens_stdin: the process gets an input; interactive: the caller's input is copied there; stdout_fd and
           stderr_fd: -1 for an output that is not wanted; without both, attached means until the input has ended;
           sig_proxy: signals are passed on; detach_keys: on a terminal, empty for docker's own;
           after_fork: called once the monitor exists, to let go of what is now the monitor's; last: as in fork_monitor
    """

    __slots__ = (
        "after_fork",
        "attach",
        "detach_keys",
        "interactive",
        "job",
        "last",
        "opens_stdin",
        "sig_proxy",
        "stderr_fd",
        "stdin_fd",
        "stdout_fd",
    )

    def __init__(
        self,
        job: Job,
        *,
        attach: bool,
        interactive: bool,
        opens_stdin: bool,
        stdin_fd: int = 0,
        stdout_fd: int = 1,
        stderr_fd: int = 2,
        sig_proxy: bool = True,
        detach_keys: bytes = b"",
        after_fork: Callable[[], None] | None = None,
        last: bool = False,
    ) -> None:
        self.job = job
        self.last = last
        self.interactive = interactive and attach and opens_stdin
        self.attach = attach and (self.interactive or max(stdout_fd, stderr_fd) >= 0)
        self.opens_stdin = opens_stdin
        self.stdin_fd = stdin_fd
        self.stdout_fd = stdout_fd
        self.stderr_fd = stderr_fd
        self.sig_proxy = sig_proxy
        self.detach_keys = detach_keys
        self.after_fork = after_fork

    def run(self) -> int | None:
        """Start the process, and wait for it when attached.

        Returns: its exit code; None when detached, from the beginning or by the detach keys
        Raises:  what kept it from starting; BrokenPipeError when the caller's output is closed
        """
        report_read, report_write = os.pipe2(os.O_CLOEXEC)
        control_read, control_write = os.pipe2(os.O_CLOEXEC)
        streams = Streams(report_write=report_write, control_read=control_read)
        reports = Reports(report_read)
        try:
            if not self.attach:
                self._run_detached(streams, reports)
                return None
            with Signals(passed_on=self.sig_proxy) as signals:
                return self._run_attached(streams, reports, signals, control_write)
        finally:
            os.close(control_write)
            os.close(report_read)

    def _run_detached(self, streams: Streams, reports: Reports) -> None:
        if self.opens_stdin and not self.job.tty:
            # An input that stays open without ever giving a byte, as docker keeps it for a later attach.
            streams.stdin_read, streams.stdin_write = os.pipe2(os.O_CLOEXEC)
            streams.keeps_stdin = True
        self._fork(streams)
        if streams.stdin_write >= 0:
            os.close(streams.stdin_write)
        reports.started()

    def _run_attached(self, streams: Streams, reports: Reports, signals: Signals, control_write: int) -> int | None:
        streams.stdout_fd, streams.stderr_fd = self.stdout_fd, self.stderr_fd
        if self.job.tty:
            return self._run_on_terminal(streams, reports, signals, control_write)
        input_fd = -1
        if self.opens_stdin:
            streams.stdin_read, input_fd = os.pipe2(os.O_CLOEXEC)
        self._fork(streams)
        if input_fd >= 0 and not self.interactive:
            os.close(input_fd)
            input_fd = -1
        attachment = self._attach(reports, signals, control_write, input_fd)
        try:
            return attachment.run()
        finally:
            attachment.close()

    def _run_on_terminal(self, streams: Streams, reports: Reports, signals: Signals, control_write: int) -> int | None:
        from minidock.runtime.tty import DETACH_KEYS, DetachKeys, is_terminal, make_raw, restore

        handover = self._prepare_terminal(streams)
        size_fd = self.stdout_fd if is_terminal(self.stdout_fd) else self.stdin_fd
        attributes = streams.terminal_attributes
        try:
            if attributes is not None:
                # Before the container can write its first byte.
                make_raw(self.stdin_fd, attributes)
            self._fork(streams)
            attachment = self._attach(reports, signals, control_write, -1)
            try:
                console_fd = receive_descriptor(handover)
                keys = DetachKeys(self.detach_keys or DETACH_KEYS) if attributes is not None else None
                attachment.use_console(console_fd, size_fd, keys)
                return attachment.run()
            finally:
                attachment.close()
        finally:
            if attributes is not None:
                restore(self.stdin_fd, attributes)
            handover.close()

    def _attach(self, reports: Reports, signals: Signals, control_write: int, input_fd: int) -> Attachment:
        pid, ticks = reports.started()
        return Attachment(
            reports,
            signals,
            control_fd=control_write,
            pidfd=open_process(pid, ticks),
            stdin_fd=self.stdin_fd if self.interactive else -1,
            input_fd=input_fd,
            input_only=max(self.stdout_fd, self.stderr_fd) < 0,
        )

    def _fork(self, streams: Streams) -> None:
        global _has_forked
        if _has_forked:
            # A command stays small, and starts one process; a program that starts more has all in memory for the next.
            self.job.prepare()
        _has_forked = True
        fork_monitor(self.job, streams, last=self.last)
        # What only the monitor needs is closed here, so that its death is seen as the end of the pipe.
        os.close(streams.report_write)
        os.close(streams.control_read)
        if streams.stdin_read >= 0:
            os.close(streams.stdin_read)
        if streams.handover is not None:
            streams.handover.close()
        if self.after_fork is not None:
            self.after_fork()

    def _prepare_terminal(self, streams: Streams) -> Any:
        import _socket

        from minidock.runtime.tty import get_attributes, is_terminal

        mine, streams.handover = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        if self.interactive and is_terminal(self.stdin_fd):
            streams.terminal_fd = self.stdin_fd
            streams.terminal_attributes = get_attributes(self.stdin_fd)
        return mine
