"""Read-only views of images, containers and layers that are mounted in this namespace; runtime/view.py mounts them.

A view of layers tells in its mount's source whose it is; one of a running container is a read-only mount of the overlay
with the container's upper directory.
Source: proc(5), /proc/PID/mountinfo
"""

from __future__ import annotations

import os

from minidock.store.transaction import read_table, unescape

RUN = "/run/minidock"
VIEWS = f"{RUN}/views"
SOURCE = "minidock:"


class View:
    """One mounted view.

    Shape: kind: `image`, `container` or `layer`; identity: its ID; target: where; root_path: the data root's
    """

    __slots__ = ("identity", "kind", "root_path", "target")

    def __init__(self, kind: str, identity: str, target: str, root_path: str) -> None:
        self.kind = kind
        self.identity = identity
        self.target = target
        self.root_path = root_path


def source_of(kind: str, identity: str, root_path: str) -> str:
    """What the mount of a view of layers tells as its source."""
    return f"{SOURCE}{kind}:{identity}:{root_path}"


def views(root_path: str = "", mount_ids: dict[str, str] | None = None) -> list[View]:
    """The views that are mounted in this namespace, of whatever root.

    Shape: mount_ids: container of the root by its overlay2 directory, to know the views of running containers by
    """
    found = []
    table = os.fsdecode(read_table("/proc/self/mountinfo"))
    for line in table.splitlines():
        head, _, tail = line.partition(" - ")
        fields, (fstype, source, options) = head.split(" "), tail.split(" ", 2)
        if fstype != "overlay":
            continue
        target = unescape(fields[4])
        if source.startswith(SOURCE):
            kind, _, rest = unescape(source[len(SOURCE) :]).partition(":")
            identity, _, path = rest.partition(":/")
            found.append(View(kind, identity, target, f"/{path}"))
        elif mount_ids and "ro" in fields[5].split(","):
            upper = options.partition("upperdir=")[2].partition("/diff")[0].rpartition("/")[2]
            if upper in mount_ids:
                found.append(View("container", mount_ids[upper], target, root_path))
    return found


def unmount_view(view: View) -> None:
    """Take a view away, and its directory where minidock made it; raises SyscallError."""
    from minidock.linux.mount import UMOUNT_NOFOLLOW, umount

    umount(os.fsencode(view.target), UMOUNT_NOFOLLOW)
    if os.path.dirname(view.target) == VIEWS:
        os.rmdir(view.target)


def unmount_views_of(container_id: str, mount_id: str) -> None:
    """Before a container goes: take its views away; raises SyscallError(EBUSY)."""
    for view in views(mount_ids={mount_id: container_id}):
        if view.kind == "container" and view.identity == container_id:
            unmount_view(view)
