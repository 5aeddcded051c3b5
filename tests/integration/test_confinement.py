"""A process that unpacks a hostile layer, and what it could still do if the layer took it over."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from minidock.store import unpack_worker
from tests.integration.test_unpack import close_job, new_job
from tests.integration.test_unpack_faults import run_forked
from tests.integration.test_unpack_packed import SEVERAL


def test_the_worker_is_shut_in(scratch: Path) -> None:
    """What a layer that took the worker over would try: refused, each of it, while files can be made as before."""
    job = new_job(scratch / "layer", SEVERAL)
    host = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    libc = ctypes.CDLL(None, use_errno=True)

    def refused(call: str, *arguments: object) -> bool:
        return getattr(libc, call)(*arguments) == -1 and ctypes.get_errno() == errno.EPERM

    def work() -> None:
        unpack_worker.enter_layer(job.diff_fd)
        assert refused("chroot", b".")
        assert refused("unshare", 0x00020000)
        assert refused("setns", host, 0)
        assert refused("mount", b"none", b"/", b"tmpfs", 0, None)
        assert refused("umount2", b"/", 2)
        assert refused("ptrace", 16, os.getppid(), 0, 0)
        assert refused("execve", b"/bin/sh", None, None)
        assert refused("socket", 1, 1, 0)
        assert refused("syscall", 304 if os.uname().machine == "x86_64" else 265, host, b"", 0)
        assert refused("syscall", 428, -100, b"/", 1)
        assert refused("kill", os.getppid(), 0)
        os.mknod("device", 0o20600, os.makedev(1, 3))
        os.chown("device", 5, 6)
        os.mkdir("folder")
        os.setxattr("folder", "trusted.overlay.opaque", b"y")

    assert run_forked(work) == 0
    os.close(host)
    close_job(job)
