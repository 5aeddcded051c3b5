"""minidock/network/endpoints/<container id>: who is on which network at this moment, and with which address.

    ROOT/minidock/network/lock                  flock: held while addresses are given out or given back
    ROOT/minidock/network/endpoints/ID/         flock: held by the container's monitor for all its life
    ROOT/minidock/network/endpoints/ID/record   the container's places, replaced by rename

An address is taken when a record names it. A record counts for as long as a process holds the flock on its directory:
the starter takes it before anything is made in the kernel, and the monitor inherits it. So however a start or a
container ends, by SIGKILL or with the machine, the record it leaves is known to be dead without a pid or a clock being
trusted, and whoever takes the lock next clears it up. Nothing here need survive a power cut.
"""

from __future__ import annotations

import fcntl
import os

from minidock.constants import PRIVATE_DIR
from minidock.errors import FormatError, SyscallError
from minidock.formats.gojson import encode_json, parse_json
from minidock.ids import is_hex64, random_hex64
from minidock.store.containerstate import remove_file
from minidock.store.transaction import make_directory, read_small, write_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from minidock.store.root import DataRoot

_MAX_BYTES = 1 << 20


class Endpoint:
    """One place of a container on a network.

    Shape: network: its name; link: the host's end of the pair; interface: the container's end; gateway, gateway6: empty
           on an internal network; address6: empty on a network without IPv6; names: what the others may call it;
           isolated: kept from the network's other containers; is_passing: a running container is being connected or
           disconnected. That is done under the NetworkLock, so whoever has the lock and reads this knows that the one
           who wrote it is dead.
    """

    __slots__ = (
        "address",
        "address6",
        "bridge",
        "endpoint_id",
        "gateway",
        "gateway6",
        "interface",
        "is_passing",
        "isolated",
        "link",
        "mac",
        "mtu",
        "names",
        "network",
        "network_id",
        "prefix",
        "prefix6",
    )

    def __init__(
        self,
        *,
        network: str,
        network_id: str,
        bridge: str,
        endpoint_id: str,
        link: str,
        interface: str,
        mac: str,
        address: str,
        prefix: int,
        gateway: str,
        address6: str = "",
        prefix6: int = 0,
        gateway6: str = "",
        mtu: int = 0,
        names: list[str] | None = None,
        is_passing: bool = False,
        isolated: bool = False,
    ) -> None:
        self.isolated = isolated
        self.is_passing = is_passing
        self.network = network
        self.network_id = network_id
        self.bridge = bridge
        self.endpoint_id = endpoint_id
        self.link = link
        self.interface = interface
        self.mac = mac
        self.address = address
        self.prefix = prefix
        self.gateway = gateway
        self.address6 = address6
        self.prefix6 = prefix6
        self.gateway6 = gateway6
        self.mtu = mtu
        self.names = names or []

    @property
    def addresses(self) -> tuple[str, ...]:
        """One or two addresses, IPv4 first."""
        return (self.address, self.address6) if self.address6 else (self.address,)

    def to_document(self) -> dict[str, Any]:
        """The endpoint as JSON."""
        return {key: getattr(self, key) for key in self.__slots__}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Endpoint:
        """Read what to_document made; raises FormatError."""
        try:
            return cls(**document)
        except TypeError:
            raise FormatError("an endpoint's record has other fields than it should") from None


class Membership:
    """A container's places.

    Shape: is_live: whether the container's monitor, or who starts it, lives; ports: the published ports
           as PublishedPort.to_document has them; sandbox_id: 64 digits that name this run's network
    """

    __slots__ = ("container_id", "endpoints", "is_live", "ports", "sandbox_id")

    def __init__(
        self,
        container_id: str,
        endpoints: list[Endpoint],
        ports: list[Any] | None = None,
        *,
        sandbox_id: str = "",
        is_live: bool = True,
    ) -> None:
        self.container_id = container_id
        self.endpoints = endpoints
        self.ports = ports or []
        self.sandbox_id = sandbox_id or random_hex64()
        self.is_live = is_live

    def endpoint(self, network_id: str) -> Endpoint | None:
        """The place on this network."""
        return next((one for one in self.endpoints if one.network_id == network_id), None)


class NetworkLock:
    """Held while addresses, links and names change; a context manager. Raises SyscallError."""

    __slots__ = ("_fd", "_path")

    def __init__(self, root: DataRoot) -> None:
        self._path = f"{root.path}/{PRIVATE_DIR}/network"
        self._fd = -1

    def __enter__(self) -> NetworkLock:
        path = f"{self._path}/lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            try:
                self._fd = os.open(path, flags, 0o600)
            except FileNotFoundError:
                for folder in (self._path.rpartition("/")[0], self._path, f"{self._path}/endpoints"):
                    if not os.path.isdir(folder):
                        _make(folder)
                self._fd = os.open(path, flags, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError as error:
            raise SyscallError(f"open {path}", error.errno or 5) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Said aloud, since a process forked meanwhile shares the open file.
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)
        self._fd = -1


def _make(path: str) -> None:
    try:
        make_directory(path, 0o700)
    except FileExistsError:
        return


class EndpointStore:
    """The places of all containers of a data root; who changes something holds the NetworkLock."""

    __slots__ = ("path", "root")

    def __init__(self, root: DataRoot) -> None:
        self.root = root
        self.path = f"{root.path}/{PRIVATE_DIR}/network/endpoints"

    def ids(self) -> list[str]:
        """The containers that have a record, live or not."""
        try:
            return sorted(filter(is_hex64, os.listdir(self.path)))
        except FileNotFoundError:
            return []

    def all(self) -> list[Membership]:
        """Everyone, the dead too."""
        return [found for container_id in self.ids() if (found := self.get(container_id)) is not None]

    def get(self, container_id: str) -> Membership | None:
        """One container's places, None without any."""
        path = f"{self.path}/{container_id}"
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            is_live = _is_held(handle)
        finally:
            os.close(handle)
        try:
            raw = read_small(f"{path}/record")
            document = parse_json(raw, what=f"{path}/record", limit_bytes=_MAX_BYTES)
            endpoints = [Endpoint.from_document(one) for one in document["Endpoints"]]
            ports, sandbox_id = document["Ports"], document["SandboxID"]
        except (FileNotFoundError, FormatError, KeyError, TypeError):
            # The directory is made before its record is: whoever did that is gone, or about to write it.
            endpoints, ports, sandbox_id = [], [], ""
        return Membership(container_id, endpoints, ports, sandbox_id=sandbox_id, is_live=is_live)

    def hold(self, container_id: str) -> int:
        """Make a container's directory and hold it. Returns: the descriptor, for as long as the container lives"""
        path = f"{self.path}/{container_id}"
        try:
            _make(path)
        except FileNotFoundError:
            # Whoever made the lock's directory, a moment ago, has not come to this one yet.
            _make(self.path)
            _make(path)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(handle, fcntl.LOCK_EX)
        return handle

    def write(self, membership: Membership) -> None:
        """Put a record in place of another; its directory is there."""
        path = f"{self.path}/{membership.container_id}"
        document = {
            "Endpoints": [one.to_document() for one in membership.endpoints],
            "Ports": membership.ports,
            "SandboxID": membership.sandbox_id,
        }
        remove_file(f"{path}/.record")
        write_new(f"{path}/.record", encode_json(document) + b"\n", 0o600)
        os.rename(f"{path}/.record", f"{path}/record")

    def remove(self, container_id: str) -> None:
        """Forget a container; the record goes first, so that what is left of a removal cut short takes no address."""
        path = f"{self.path}/{container_id}"
        try:
            for name in ("record", ".record"):
                remove_file(f"{path}/{name}")
            os.rmdir(path)
        except FileNotFoundError:
            return


def _is_held(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(handle, fcntl.LOCK_UN)
    return False
