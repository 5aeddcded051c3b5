"""A container leaves its networks: its ports, its names in the others' files, its record; see joining.py.

A room of its own, since a monitor that has become small keeps this for its container's end, and nothing of how to join.
"""

from __future__ import annotations

import os

from minidock.network.hostfiles import change_hosts, peer_lines
from minidock.store.endpoints import NetworkLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.store.endpoints import Endpoint, Membership
    from minidock.store.root import DataRoot


class HeldPlaces:
    """What keeps a container's places, for one who has no need to know what they are.

    Shape: fd: holds the record; descriptors: of the sockets that hold the ports
    """

    __slots__ = ("_descriptors", "container_id", "fd", "root")

    def __init__(self, root: DataRoot, container_id: str, fd: int, descriptors: Sequence[int]) -> None:
        self.root = root
        self.container_id = container_id
        self.fd = fd
        self._descriptors = list(descriptors)

    def sockets(self) -> list[int]:
        """What a process must keep open for the container to keep its ports."""
        return self._descriptors

    def release(self) -> None:
        """Give everything back; what the kernel does not take along is removed."""
        with NetworkLock(self.root):
            member = self.root.endpoints.get(self.container_id)
            if member is not None:
                leave(self.root, member)
        self.close()

    def close(self) -> None:
        """Let go of the record and the ports, which another process may go on holding."""
        for fd in (*self._descriptors, self.fd):
            if fd >= 0:
                os.close(fd)
        self._descriptors.clear()
        self.fd = -1


def leave(root: DataRoot, member: Membership) -> None:
    """Take a member's ports and names away, and then its record; the caller holds the NetworkLock."""
    if member.ports:
        from minidock.network.publish import unpublish

        unpublish(member.container_id, trace=root.trace)
    named = [one for one in member.endpoints if one.names]
    if named:
        for other in root.endpoints.all():
            for one in named:
                forget_names(root, one, other)
    root.endpoints.remove(member.container_id)


def forget_names(root: DataRoot, one: Endpoint, other: Membership) -> None:
    """Take a member's names out of another's file, if they shared that network."""
    if other.endpoint(one.network_id) is not None:
        change_hosts(hosts_path(root, other.container_id), remove=peer_lines(one.addresses, one.names))


def hosts_path(root: DataRoot, container_id: str) -> str:
    """A container's hosts file on the host."""
    return f"{root.path}/containers/{container_id}/hosts"
