"""The network namespace that a test session lives in, and those that tests make.

As root, a session leaves the machine's own network before its first test: what containers' networks need there (links,
addresses, routes, rules, sysctls) is made in a namespace that ends with the session. What needs the package mirror says
so, with outside().
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests import builders

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_outside_fd = -1


def unshare_network() -> None:
    """Move this process into a new network, with nothing in it but a loopback that is up."""
    if _libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    os.spawnlp(os.P_WAIT, "ip", "ip", "link", "set", "lo", "up")


def enter_own() -> None:
    """Leave the machine's network for one of the session's own; once a session."""
    global _outside_fd
    if _outside_fd < 0 and os.geteuid() == 0:
        _outside_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        unshare_network()


def outside() -> list[str]:
    """The words before a command that has to reach the package mirror."""
    return [] if _outside_fd < 0 else ["nsenter", f"--net=/proc/{os.getpid()}/fd/{_outside_fd}"]


def outside_state() -> dict[str, object]:
    """Links, addresses, routes, rules, sysctls and named namespaces of the machine's own network."""

    def told(*words: str) -> str:
        return builders.run_command(*outside(), *words, check=False).stdout

    def rows(*words: str, keys: tuple[str, ...]) -> list[str]:
        return sorted(str([row.get(key) for key in keys]) for row in json.loads(told("ip", "-j", *words) or "[]"))

    links = rows("link", keys=("ifname", "flags", "master", "mtu"))
    addresses = json.loads(told("ip", "-j", "address") or "[]")
    return {
        "links": links,
        "addresses": sorted(
            f"{link['ifname']} {one.get('local')}/{one['prefixlen']}" for link in addresses for one in link["addr_info"]
        ),
        "routes": rows("route", keys=("dst", "gateway", "dev")) + rows("-6", "route", keys=("dst", "gateway", "dev")),
        "policies": told("ip", "rule"),
        "rules": re.sub(r"packets \d+ bytes \d+", "", told("nft", "list", "ruleset")),
        "sysctls": told("cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"),
        "namespaces": told("ip", "netns", "list"),
    }


def ping(address: str, namespace: str = "") -> None:
    """Reach an address with one packet from the session's network, or fail."""
    words = ["ip", "netns", "exec", namespace] if namespace else []
    builders.run_command(*words, "busybox", "ping", "-c", "1", "-w", "10", address)


class Namespace:
    """A machine of its own, at the other end of a wire; a context manager.

    Shape: there, here: the addresses at both ends, with prefix
    """

    def __init__(self, name: str, there: str, here: str) -> None:
        self.name = f"{name}{os.getpid()}"
        self.there = there
        self.here = here

    def __enter__(self) -> Namespace:
        name, wire = self.name, f"w{os.getpid()}"
        for words in (
            ("netns", "add", name),
            ("link", "add", wire, "type", "veth", "peer", "name", "wire", "netns", name),
            ("address", "add", self.here, "dev", wire),
            ("link", "set", wire, "up"),
            ("-n", name, "address", "add", self.there, "dev", "wire"),
            ("-n", name, "link", "set", "wire", "up"),
            ("-n", name, "link", "set", "lo", "up"),
        ):
            builders.run_command("ip", *words)
        return self

    def __exit__(self, *_: object) -> None:
        builders.run_command("ip", "netns", "delete", self.name)

    @contextmanager
    def echo_peer(self, port: int) -> Iterator[None]:
        """A server that tells each caller its address, and closes."""
        code = (
            "import socket\n"
            f"s = socket.create_server(('', {port}))\n"
            "print('ready', flush=True)\n"
            "while True:\n"
            "    c, a = s.accept(); c.sendall(a[0].encode() + b'\\n'); c.close()\n"
        )
        words = ["ip", "netns", "exec", self.name, sys.executable, "-c", code]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == b"ready\n"
            yield
        finally:
            server.kill()
            server.wait(10)
            server.stdout.close()
