"""Signals by name and number, as docker reads and numbers them on Linux, and what a monitor does about them.

Source: moby/sys/signal, signal_linux.go
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

from minidock.errors import UsageError

SIGNALS = {
    "HUP": 1,
    "INT": 2,
    "QUIT": 3,
    "ILL": 4,
    "TRAP": 5,
    "ABRT": 6,
    "IOT": 6,
    "BUS": 7,
    "FPE": 8,
    "KILL": 9,
    "USR1": 10,
    "SEGV": 11,
    "USR2": 12,
    "PIPE": 13,
    "ALRM": 14,
    "TERM": 15,
    "STKFLT": 16,
    "CHLD": 17,
    "CLD": 17,
    "CONT": 18,
    "STOP": 19,
    "TSTP": 20,
    "TTIN": 21,
    "TTOU": 22,
    "URG": 23,
    "XCPU": 24,
    "XFSZ": 25,
    "VTALRM": 26,
    "PROF": 27,
    "WINCH": 28,
    "IO": 29,
    "POLL": 29,
    "PWR": 30,
    "SYS": 31,
}
_RTMIN, _RTMAX = 34, 64

# Tells a monitor to look for what is asked of it.
WAKE = SIGNALS["USR1"]

# What the starter passes on to the container (SIGCHLD, SIGPIPE and SIGURG are its own, the rest kill it by design).
FORWARDED = tuple(SIGNALS[name] for name in "HUP INT QUIT USR1 USR2 ALRM TERM CONT TSTP WINCH".split())

# What a monitor does not die of.
_IGNORED = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2)


def parse_signal(text: str) -> int:
    """The number of a signal given as `TERM`, `SIGTERM`, `RTMIN+3` or `15`; raises UsageError."""
    word = text.upper().removeprefix("SIG")
    if word.isascii() and word.isdecimal():
        number = int(word) if len(word) < 4 else 0
    elif word in SIGNALS:
        number = SIGNALS[word]
    else:
        number = _real_time(word)
    if not 0 < number <= _RTMAX:
        raise UsageError(f"Invalid signal: {text}")
    return number


def _real_time(word: str) -> int:
    for base, start, sign in (("RTMIN", _RTMIN, 1), ("RTMAX", _RTMAX, -1)):
        if word == base:
            return start
        rest = word.removeprefix(base)
        if rest != word and rest[:1] == "+-"[sign < 0] and rest[1:].isdecimal() and len(rest) < 4:
            number = start + sign * int(rest[1:])
            return number if _RTMIN <= number <= _RTMAX else 0
    return 0


def default_signals() -> None:
    """Undo the starter's handlers; the container's process starts from these."""
    _signal.set_wakeup_fd(-1)
    for number in (*FORWARDED, _signal.SIGCHLD):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])


def open_wake() -> int:
    """A descriptor that becomes readable whenever the monitor is woken."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    _signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    _signal.signal(WAKE, _nothing)
    # One that was sent while the monitor became another program has waited.
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [WAKE])
    return read_fd


def _nothing(number: int, frame: object) -> None:
    """The wake-up descriptor has told already."""


def drain(fd: int) -> None:
    """Make it unreadable until the next signal."""
    try:
        os.read(fd, 4096)
    except BlockingIOError:
        return


def ignore_signals() -> None:
    """A signal sent to everything of the caller's must not take the monitor, and with it the container, away."""
    for number in _IGNORED:
        _signal.signal(number, _signal.SIG_IGN)
