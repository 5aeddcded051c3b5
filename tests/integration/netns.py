"""Network namespaces of a test's own, held by a process each, and code and programs run inside them."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import socket
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minidock.linux.namespaces import CLONE_NEWNET, set_namespaces
from tests import builders


class Network:
    """The network namespace of a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """A function's result, called in a forked process inside; what it raises is raised here."""
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(read_fd)
                set_namespaces(self.fd, CLONE_NEWNET)
                try:
                    outcome = (True, function(*arguments, **options))
                except BaseException as error:  # noqa: BLE001 - handed to the caller
                    error.add_note(traceback.format_exc())
                    outcome = (False, error)
                with os.fdopen(write_fd, "wb") as pipe:
                    pickle.dump(outcome, pipe)
            finally:
                os._exit(0)
        os.close(write_fd)
        with os.fdopen(read_fd, "rb") as pipe:
            data = pipe.read()
        os.waitpid(pid, 0)
        assert data, "the process inside died"
        done, value = pickle.loads(data)
        if not done:
            raise value
        return value

    def socket(self, kind: int, family: int = socket.AF_INET) -> socket.socket:
        """A socket of this namespace, for the test's own process."""
        made: list[socket.socket] = []

        def work() -> None:
            # A thread has a network namespace of its own.
            set_namespaces(self.fd, CLONE_NEWNET)
            made.append(socket.socket(family, kind))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return made[0]


class Netns(Network):
    """A network namespace with its loopback up; it and all in it is gone when its holder has ended."""

    def __init__(self) -> None:
        words = ["unshare", "-n", "sh", "-c", "ip link set lo up && echo ready && exec sleep 600"]
        self.holder = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n"
        super().__init__(self.holder.pid)

    def close(self) -> None:
        """End the holder; whatever else runs inside is the test's own."""
        super().close()
        self.holder.kill()
        self.holder.wait()

    def run(self, *words: str, check: bool = True, stdin: str = "") -> str:
        """A program's output, run inside."""
        inside = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *words]
        return builders.run_command(*inside, input=stdin, check=check).stdout


@contextmanager
def namespaces(count: int) -> Iterator[list[Netns]]:
    """Some network namespaces for the time of a test."""
    made: list[Netns] = []
    try:
        for _ in range(count):
            made.append(Netns())
        yield made
    finally:
        for one in made:
            one.close()


def ruleset(space: Netns) -> str:
    """All rules inside, as nft lists them."""
    return space.run("nft", "list", "ruleset")


_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _serve(address: str, port: int, kind: str, ready_fd: int) -> None:
    """Answer everybody with his own address, for ever."""
    server = socket.socket(_family(address), _KINDS[kind])
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    if kind == "tcp":
        server.listen(16)
    os.write(ready_fd, b"r")
    os.close(ready_fd)
    while True:
        if kind == "udp":
            _, peer = server.recvfrom(100)
            server.sendto(peer[0].encode(), peer)
        else:
            connection, peer = server.accept()
            connection.sendall(peer[0].encode())
            connection.close()


@contextmanager
def serving(space: Network, address: str, port: int, kind: str = "tcp") -> Iterator[None]:
    """A server inside that tells everybody the address he comes from."""
    ready_read, ready_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ready_read)
            set_namespaces(space.fd, CLONE_NEWNET)
            _serve(address, port, kind, ready_write)
        finally:
            os._exit(1)
    os.close(ready_write)
    try:
        assert os.read(ready_read, 1) == b"r", "the server did not start"
        yield
    finally:
        os.close(ready_read)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def ask(address: str, port: int, kind: str = "tcp", *, patience_s: float = 10) -> str:
    """What a server answers; the reason when none does."""
    with socket.socket(_family(address), _KINDS[kind]) as client:
        client.settimeout(patience_s)
        try:
            client.connect((address, port))
            if kind == "udp":
                client.send(b"?")
            return client.recv(100).decode()
        except TimeoutError:
            return "silence"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))


def ask_in_vain(address: str, port: int, kind: str = "tcp") -> str:
    """The same where no answer is expected."""
    return ask(address, port, kind, patience_s=0.5)


def join(one: Netns, name: str, other: Netns, peer: str) -> None:
    """A pair of links between two namespaces, up on both sides."""
    one.run("ip", "link", "add", name, "type", "veth", "peer", "name", peer, "netns", str(other.pid))
    for space, link in ((one, name), (other, peer)):
        space.run("ip", "link", "set", link, "up")


def give_addresses(space: Netns, link: str, *addresses: str) -> None:
    """Addresses in CIDR form, usable at once."""
    for address in addresses:
        space.run("ip", "address", "add", address, "dev", link, *(["nodad"] if ":" in address else []))


def fetch(address: str, port: int) -> bytes:
    """A web server's page; empty when the port is closed."""
    try:
        with socket.create_connection((address, port), 10) as connection:
            connection.settimeout(10)
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.makefile("rb").read().rpartition(b"\r\n\r\n")[2]
    except OSError:
        return b""
