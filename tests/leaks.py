"""What a whole session of tests may not leave behind: mounts, control groups, processes, descriptors, links, files.

Taken down when the first fixture begins and looked at again when the last has ended; a difference is an error of the
session. Other sessions may work on the same machine: what belongs to this one is known by its mark, which is in
the names of all its scratch directories and in the environment of all that it starts. What carries no mark (a control
group, a link) counts where this session has the machine for itself, as in CI; elsewhere it is only named.
"""

from __future__ import annotations

import gc
import os
import random
import re
import select
import socket
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Short, since podman takes no directory of more than 50 characters; of letters that are in no number and no digest.
MARK = "".join(random.choices("ghjkmnpqrstvwxyz", k=7))
# Where scratch directories are made; their names carry the mark.
SCRATCH = Path("/dev/shm")
GROUPS = Path("/sys/fs/cgroup")
ENGINES = re.compile(r"/(minidock|docker|libpod)[^/]*/|[0-9a-f]{64}")
# How long the last processes may take to end. Engines give back what a killed client held after up to ten seconds.
PATIENCE_S = 30

os.environ["MINIDOCK_TEST_SESSION"] = MARK


def scratch_prefix(kind: str) -> str:
    """The beginning of the name of a scratch directory."""
    return f"{kind}-{MARK}-"


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _links_of(directory: str) -> list[str]:
    found = []
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    for name in names:
        try:
            found.append(os.readlink(f"{directory}/{name}"))
        except OSError:
            continue
    return found


def mounts() -> set[str]:
    """The mounts that this process and the machine's first one see.

    Not the directory of named network namespaces, which the first `ip netns add` makes a mount, once and for all.
    """
    found = set()
    for line in (_text("/proc/self/mountinfo") + _text("/proc/1/mountinfo")).splitlines():
        _, _, device, root, where, *rest = line.split(" ")
        kind, source = rest[rest.index("-") + 1 :][:2]
        if where != "/run/netns":
            found.add(f"{where} ({kind} {device}, {root} of {source})")
    return found


def groups() -> set[str]:
    """The control groups that an engine has made."""
    found = {f"{path}" for path, _, _ in os.walk(GROUPS)}
    return {path for path in found if ENGINES.search(path)}


def links() -> set[str]:
    """The network links of this namespace, and the namespaces that have a name.

    Not the bridges of networks, which stay for the next container, and go when another bridge is made.
    """
    try:
        named = {f"/run/netns/{name}" for name in os.listdir("/run/netns")}
    except OSError:
        named = set()
    done = subprocess.run(["ip", "-o", "link", "show", "type", "bridge"], capture_output=True, text=True)
    bridges = {line.split()[1].rstrip(":") for line in done.stdout.splitlines()}
    return {name for _, name in socket.if_nameindex() if name not in bridges} | named


def descriptors() -> list[str]:
    """What this process has open, but for the directory that is read to know it."""
    gc.collect()
    own = f"/proc/{os.getpid()}/fd"
    return sorted(target for target in _links_of("/proc/self/fd") if target != own)


def processes() -> set[str]:
    """Every other process of this session, by its number and command line."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) != os.getpid() and _is_ours(f"/proc/{pid}"):
            words = _text(f"/proc/{pid}/cmdline").replace("\0", " ").strip() or _text(f"/proc/{pid}/comm").strip()
            found.add(f"{pid}: {words[:200]}")
    return found


def _is_ours(process: str) -> bool:
    status = _text(f"{process}/status")
    if "State:\tZ" in status:
        # A zombie tells nothing any more but whose it is; those of others are reaped by others.
        return f"PPid:\t{os.getpid()}\n" in status
    told = [_text(f"{process}/{name}") for name in ("cmdline", "environ")]
    # What is mounted for a container comes from a data root of ours; a mount point of ours others may see as well.
    table = [line.split(" ") for line in _text(f"{process}/mountinfo").splitlines()]
    told += [words[3] for words in table if MARK not in words[4]]
    return any(MARK in text for text in (*told, *_links_of(f"{process}/fd"), *_links_of(process)))


def files() -> set[str]:
    """Scratch directories of this session, and loop devices on files in them."""
    found = {str(path) for path in SCRATCH.iterdir() if MARK in path.name}
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        if MARK in (backing := _text(path).strip()):
            found.add(f"/dev/{path.parts[3]} on {backing}")
    return found


class Inventory:
    """What there is, by kind."""

    def __init__(self) -> None:
        self.mounts = mounts()
        self.groups = groups()
        self.links = links()
        self.descriptors = descriptors()
        self.processes = processes()
        self.files = files()

    def left_since(self, before: Inventory) -> tuple[list[str], list[str]]:
        """What has come and not gone: what is this session's without doubt, and what may be another's."""
        ours = [f"process {name}" for name in sorted(self.processes - before.processes)]
        ours += [f"file {name}" for name in sorted(self.files - before.files)]
        known = list(before.descriptors)
        for target in self.descriptors:
            if target in known:
                known.remove(target)
            else:
                ours.append(f"descriptor of {target}")
        new_mounts = sorted(self.mounts - before.mounts)
        ours += [f"mount {name}" for name in new_mounts if MARK in name]
        doubtful = [f"mount {name}" for name in new_mounts if MARK not in name]
        doubtful += _groups_in_words(self.groups - before.groups)
        doubtful += [f"network {name}" for name in sorted(self.links - before.links)]
        return ours, doubtful


def _groups_in_words(found: set[str]) -> list[str]:
    """One line for each group, whatever the number of its hierarchies; not what engines keep to make groups in."""
    by_name: dict[str, list[str]] = {}
    for path in sorted(found):
        hierarchy, _, name = path.removeprefix(f"{GROUPS}/").partition("/")
        if os.path.basename(path) not in ("minidock", "docker", "libpod_parent"):
            by_name.setdefault(name, []).append(hierarchy)
    return [f"control group {name} of {', '.join(hierarchies)}" for name, hierarchies in by_name.items()]


def left_at_the_end(before: Inventory, is_settled: Callable[[tuple[list[str], list[str]]], bool]) -> list[list[str]]:
    """What is left once it is settled, or once patience has ended."""
    end = time.monotonic() + PATIENCE_S
    left = Inventory().left_since(before)
    while not is_settled(left) and time.monotonic() < end:
        # The kernel tells nobody when the last process of a group or the last user of a mount has gone.
        select.select([], [], [], 0.2)
        left = Inventory().left_since(before)
    return [*left]


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """The session's own check; the first fixture of all, so that it ends last."""
    before = Inventory()
    yield
    alone = os.environ.get("CI") == "1"
    ours, doubtful = left_at_the_end(before, lambda left: not left[0] and not (alone and left[1]))
    if doubtful and not alone:
        warnings.warn("new on this machine, perhaps by others:\n  " + "\n  ".join(doubtful), stacklevel=1)
    elif alone:
        ours += doubtful
    if ours:
        pytest.fail("the tests have left behind:\n  " + "\n  ".join(ours), pytrace=False)
