"""For readers that go by path: the kernel itself keeps this process from changing so much as an access time of a root.

What can be read through one descriptor is better read so, see evidence.py; this is for all the rest.

Reading a file, listing a directory and following a symlink each move an access time, and no flag of open(2) prevents
the last. So the process gets a mount namespace of its own, in which the root lies on itself as a mount that is
read-only and without access times. All paths stay what they are, mounts below the root included.

Source: mount_setattr(2), MOUNT_ATTR_NOATIME, Linux 5.12; open_tree(2), OPEN_TREE_CLONE
"""

from __future__ import annotations

import os

from minidock.errors import SyscallError


def seal(path: str) -> bool:
    """Let this process see a directory read-only and without access times, for good.

    Shape:   path: as DataRoot.open takes it; changes the calling thread's mount namespace, so it belongs into a process
             of one thread that only reads; whoever started the process sees nothing of it
    Returns: False when the kernel or missing rights forbid it, or there is no such directory: then nothing is changed
    """
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        return False
    from minidock.linux.mount import MS_PRIVATE, MS_REC, attach_tree, clone_tree, mount, seal_tree
    from minidock.linux.namespaces import CLONE_NEWNS, unshare

    try:
        unshare(CLONE_NEWNS)
        mount(None, b"/", None, MS_REC | MS_PRIVATE)
        tree = clone_tree(os.fsencode(real), recursive=True)
    except SyscallError:
        return False
    try:
        seal_tree(tree, recursive=True)
        target = os.open(real, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attach_tree(tree, target)
        finally:
            os.close(target)
    except OSError:
        return False
    finally:
        os.close(tree)
    return True
