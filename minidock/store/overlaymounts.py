"""The overlays that are mounted of a data root's layers, as the kernel tells of them.

Source: proc(5), /proc/PID/mountinfo; overlayfs shows lowerdir and upperdir as they were given, relative ones too
"""

from __future__ import annotations

import os

from minidock.constants import DRIVER
from minidock.store.transaction import read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class OverlayPoint:
    """One mounted overlay. Shape: point: where; cache_ids: its layers' directories, topmost first"""

    __slots__ = ("cache_ids", "point")

    def __init__(self, point: str, cache_ids: list[str]) -> None:
        self.point = point
        self.cache_ids = cache_ids


def overlay_mounts(root_path: str, link_target: Callable[[str], str]) -> list[OverlayPoint]:
    """The overlays of this root's layers in this mount namespace, longest mount point first.

    Shape: link_target: the directory that a link_id leads to, "" for none; relative names (`l/<link_id>`) are taken for
           this root's when it has them all
    """
    found = []
    for line in os.fsdecode(read_table("/proc/self/mountinfo")).splitlines():
        left, _, right = line.partition(" - ")
        kind, _, rest = right.partition(" ")
        if kind != "overlay":
            continue
        cache_ids = _cache_ids(rest.partition(" ")[2], root_path, link_target)
        if cache_ids:
            found.append(OverlayPoint(_unescape(left.split(" ", 5)[4]), cache_ids))
    return sorted(found, key=lambda mount: -len(mount.point))


def _unescape(field: str) -> str:
    if "\\" not in field:
        return field
    head, *parts = field.split("\\")
    text = head + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts)
    return os.fsdecode(text.encode("latin-1", "surrogateescape"))


def _cache_ids(options: str, root_path: str, link_target: Callable[[str], str]) -> list[str]:
    words = dict(word.partition("=")[::2] for word in options.split(","))
    names = [_unescape(words["upperdir"])] if "upperdir" in words else []
    names += _unescape(words.get("lowerdir", "")).split(":")
    found = []
    for name in names:
        cache_id = _cache_id(name, f"{root_path}/{DRIVER}", link_target)
        if not cache_id:
            return []
        found.append(cache_id)
    return found


def _cache_id(name: str, overlay_path: str, link_target: Callable[[str], str]) -> str:
    relative = name.removeprefix(overlay_path + "/")
    if relative.startswith("/"):
        return ""
    if relative.startswith("l/"):
        return link_target(relative[2:])
    folder, _, rest = relative.partition("/")
    return folder if rest == "diff" else ""
