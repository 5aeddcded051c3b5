"""Waiting for a change of a file or a directory, as long as a process lives. Source: inotify(7)"""

from __future__ import annotations

import os
import select

from minidock.linux import cdata
from minidock.linux.libc import declare

_init = declare("inotify_init1", cdata.c_int)
_add_watch = declare("inotify_add_watch", cdata.c_int, cdata.c_char_p, cdata.c_uint32)

# linux/inotify.h
GROWS = 0x2
# A directory in which a file comes, goes or is replaced, or which is itself moved or removed.
CHANGES = 0x80 | 0x100 | 0x200 | 0x400 | 0x800


class Growth:
    """Waits until a file grows, or a directory changes, or a process ends, by inotify(7) and a pidfd.

    Shape: mask GROWS or CHANGES
    """

    __slots__ = ("_poll", "fd", "pidfd")

    def __init__(self, path: str, pidfd: int, mask: int = GROWS) -> None:
        self.pidfd = pidfd
        self.fd = _init(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _add_watch(self.fd, os.fsencode(path), mask)
        except OSError:
            os.close(self.fd)
            raise
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLIN)
        self._poll.register(pidfd, select.POLLIN)

    def wait(self) -> bool:
        """Block; False once the process has ended, after which one more look at the file is the last."""
        ready = [fd for fd, _ in self._poll.poll()]
        if self.fd in ready:
            try:
                os.read(self.fd, 4096)
            except BlockingIOError:
                pass
        return self.pidfd not in ready

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self.fd)
        os.close(self.pidfd)
