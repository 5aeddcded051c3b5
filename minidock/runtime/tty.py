"""The caller's terminal: raw while a container has it, and back as it was whatever happens.

Source: termios(3), cfmakeraw; moby/term, tc.go
"""

from __future__ import annotations

import fcntl
import os
import termios

from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6
DETACH_KEYS = b"\x10\x11"


def is_terminal(fd: int) -> bool:
    """Whether fd is a terminal; a closed one is not."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


def get_attributes(fd: int) -> list[Any]:
    """The terminal's settings, to be restored later."""
    return termios.tcgetattr(fd)


def restore(fd: int, attributes: list[Any]) -> None:
    """Set the terminal as it was; one that has gone needs nothing."""
    try:
        termios.tcsetattr(fd, termios.TCSADRAIN, attributes)
    except (termios.error, OSError):
        return


def make_raw(fd: int, attributes: list[Any]) -> None:
    """Pass every key on as it is, unechoed."""
    raw = list(attributes)
    raw[_IFLAG] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    raw[_OFLAG] &= ~termios.OPOST
    raw[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    raw[_CFLAG] = raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[_CC] = list(raw[_CC])
    raw[_CC][termios.VMIN] = 1
    raw[_CC][termios.VTIME] = 0
    termios.tcsetattr(fd, termios.TCSANOW, raw)


def copy_size(source_fd: int, console_fd: int) -> None:
    """Give a console the size of the caller's terminal; the kernel then sends SIGWINCH inside."""
    try:
        size = fcntl.ioctl(source_fd, termios.TIOCGWINSZ, bytes(8))
        if size[:4] != bytes(4):
            fcntl.ioctl(console_fd, termios.TIOCSWINSZ, size)
    except OSError:
        return


def parse_detach_keys(text: str) -> bytes:
    """Keys as docker writes them, `ctrl-p,ctrl-q` or single letters; raises UsageError. Source: moby/term, ascii.go"""
    if not text:
        return DETACH_KEYS
    keys = bytearray()
    for word in text.split(","):
        letter = word.removeprefix("ctrl-") if len(word) > 1 else ""
        if len(word) == 1 and word.isascii():
            keys += word.encode()
        elif word.startswith("ctrl-") and len(letter) == 1 and letter in "@abcdefghijklmnopqrstuvwxyz[\\]^_":
            keys.append(ord(letter.upper()) - 64)
        else:
            raise UsageError(f"Invalid escape keys ({text}) provided")
    return bytes(keys)


class DetachKeys:
    """Finds a sequence of keys, ctrl-p ctrl-q unless told otherwise, in what is typed."""

    __slots__ = ("_held", "_keys", "detached")

    def __init__(self, keys: bytes = DETACH_KEYS) -> None:
        self._keys = keys
        self._held = b""
        self.detached = False

    def filter(self, data: bytes) -> bytes:
        """What is to be passed on; sets detached once all keys came one after the other."""
        out = bytearray()
        for byte in data:
            if byte == self._keys[len(self._held)]:
                self._held += bytes((byte,))
                if self._held == self._keys:
                    self.detached = True
                    break
                continue
            out += self._held
            self._held = b""
            if byte == self._keys[0] and len(self._keys) > 1:
                self._held = self._keys[:1]
            else:
                out.append(byte)
        return bytes(out)
