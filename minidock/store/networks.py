"""minidock/network/<network id>.json: the networks that somebody made, and the three that are always there.

Docker's engine keeps its own in a bolt database, network/files/local-kv.db, which other programs cannot share; so a
network belongs to the engine that made it, and a container that was made for one finds out at its start.

The default network has no record at all. Its bridge is named after the data root, and which subnet it has is to be
read from the kernel: the same root may be used in several network namespaces, or be carried to another machine,
where another subnet is free. See network/bridge.py.
"""

from __future__ import annotations

import os

from minidock.constants import DEFAULT_ROOT, PRIVATE_DIR
from minidock.errors import FormatError, NoSuchNetwork, StoreCorrupt, UsageError
from minidock.formats.containerconfig import time_of, time_text
from minidock.formats.gojson import encode_json, parse_json
from minidock.formats.subnets import Subnet
from minidock.ids import is_hex64, sha256_hex
from minidock.store.transaction import make_directory, read_small, sync_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.root import DataRoot

_MAX_BYTES = 1 << 20
_PREDEFINED = (("bridge", "bridge"), ("host", "host"), ("none", "null"))
BRIDGE_NAME = "com.docker.network.bridge.name"
ENABLE_ICC = "com.docker.network.bridge.enable_icc"
ENABLE_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
MTU = "com.docker.network.driver.mtu"
DEFAULT_BRIDGE_OPTION = "com.docker.network.bridge.default_bridge"
_FALSE_WORDS = ("0", "f", "F", "false", "FALSE", "False")


class Pool:
    """The addresses of a network in one family.

    Shape: ip_range: the part that containers get theirs from, or None; shows_gateway: whether inspect tells of it, as
           docker does unless the subnet was chosen and the gateway was not
    """

    __slots__ = ("gateway", "ip_range", "shows_gateway", "subnet")

    def __init__(
        self, subnet: Subnet, gateway: str = "", ip_range: Subnet | None = None, *, shows_gateway: bool = True
    ) -> None:
        self.subnet = subnet
        self.gateway = gateway or subnet.first_host
        self.ip_range = ip_range
        self.shows_gateway = shows_gateway

    @property
    def is_ipv6(self) -> bool:
        """Which family it is of."""
        return self.subnet.bits == 128


class Network:
    """One network.

    Shape: pools: at most one for each family, none for the default network until its bridge has been looked at; driver
           bridge, host or null; was_asked: whether somebody chose the subnet
    """

    __slots__ = ("created_ns", "driver", "id", "internal", "ipv6", "labels", "name", "options", "pools", "was_asked")

    def __init__(
        self,
        *,
        network_id: str,
        name: str,
        driver: str = "bridge",
        pools: list[Pool] | None = None,
        internal: bool = False,
        ipv6: bool = False,
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        created_ns: int = 0,
        was_asked: bool = False,
    ) -> None:
        self.id = network_id
        self.name = name
        self.driver = driver
        self.pools = pools or []
        self.internal = internal
        self.ipv6 = ipv6
        self.options = options or {}
        self.labels = labels or {}
        self.created_ns = created_ns
        self.was_asked = was_asked

    @property
    def is_default(self) -> bool:
        """Whether it is the network of containers that asked for none."""
        return self.name == "bridge"

    @property
    def is_predefined(self) -> bool:
        """Whether it is always there."""
        return (self.name, self.driver) in _PREDEFINED

    @property
    def bridge(self) -> str:
        """The bridge's name."""
        return self.options.get(BRIDGE_NAME) or f"br-{self.id[:12]}"

    @property
    def mtu(self) -> int:
        """The largest packet; 0 for the kernel's own choice, which is 1500."""
        text = self.options.get(MTU, "")
        size = int(text) if text.isascii() and text.isdecimal() else 0
        return 0 if size == 1500 else size

    def has(self, option: str) -> bool:
        """Whether an option that is on unless switched off is on."""
        return self.options.get(option, "true") not in _FALSE_WORDS

    def pool(self, *, ipv6: bool = False) -> Pool | None:
        """The addresses of one family."""
        return next((pool for pool in self.pools if pool.is_ipv6 == ipv6), None)

    def to_document(self) -> dict[str, Any]:
        """The record, in the shape of `docker network inspect`."""
        return {
            "Name": self.name,
            "Id": self.id,
            "Created": time_text(self.created_ns),
            "Scope": "local",
            "Driver": self.driver,
            "EnableIPv6": self.ipv6,
            "IPAM": {"Driver": "default", "Options": {}, "Config": [pool_document(pool) for pool in self.pools]},
            "Internal": self.internal,
            "Options": self.options,
            "Labels": self.labels,
            "WasAsked": self.was_asked,
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Network:
        """Read a record; raises StoreCorrupt."""
        try:
            return cls(
                network_id=document["Id"],
                name=document["Name"],
                driver=document["Driver"],
                pools=[_read_pool(one) for one in document["IPAM"]["Config"]],
                internal=document["Internal"] is True,
                ipv6=document["EnableIPv6"] is True,
                options=dict(document["Options"]),
                labels=dict(document["Labels"]),
                created_ns=time_of(document["Created"]),
                was_asked=document.get("WasAsked") is True,
            )
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise StoreCorrupt(f"the record of a network is damaged: {error}") from None


def pool_document(pool: Pool) -> dict[str, str]:
    """One entry of IPAM.Config."""
    document = {"Subnet": str(pool.subnet)}
    if pool.ip_range is not None:
        document["IPRange"] = str(pool.ip_range)
    if pool.shows_gateway:
        document["Gateway"] = pool.gateway
    return document


def _read_pool(document: dict[str, str]) -> Pool:
    ip_range = Subnet.parse(document["IPRange"]) if document.get("IPRange") else None
    gateway = document.get("Gateway", "")
    return Pool(Subnet.parse(document["Subnet"]), gateway, ip_range, shows_gateway=bool(gateway))


def default_bridge_name(root_path: str) -> str:
    """The default network's bridge: one for each data root, since several may be in use in one network namespace."""
    return "minidock0" if root_path == DEFAULT_ROOT else f"md-{sha256_hex(os.fsencode(root_path))[:10]}"


class NetworkStore:
    """The networks of a data root; who changes them holds the NetworkLock."""

    __slots__ = ("path", "root")

    def __init__(self, root: DataRoot) -> None:
        self.root = root
        self.path = f"{root.path}/{PRIVATE_DIR}/network"

    def default(self) -> Network:
        """The network of containers that asked for none."""
        return self.predefined("bridge", "bridge")

    def predefined(self, name: str, driver: str) -> Network:
        """One that is always there; its ID is the same in every data root."""
        network = Network(network_id=sha256_hex(f"minidock network {name}".encode()), name=name, driver=driver)
        if driver == "bridge":
            network.options = {
                DEFAULT_BRIDGE_OPTION: "true",
                ENABLE_ICC: "true",
                ENABLE_MASQUERADE: "true",
                "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
                BRIDGE_NAME: default_bridge_name(self.root.path),
                MTU: "1500",
            }
        return network

    def made(self) -> list[Network]:
        """The networks that somebody made, by name; damaged records are passed over."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            network_id, dot, ending = name.partition(".")
            if dot and ending == "json" and is_hex64(network_id):
                try:
                    found.append(self._read(network_id))
                except (FileNotFoundError, StoreCorrupt):
                    continue
        return sorted(found, key=lambda network: network.name)

    def all(self) -> list[Network]:
        """Every network, by name."""
        networks = [*self.made(), *(self.predefined(name, driver) for name, driver in _PREDEFINED)]
        return sorted(networks, key=lambda network: network.name)

    def _read(self, network_id: str) -> Network:
        path = f"{self.path}/{network_id}.json"
        try:
            return Network.from_document(parse_json(read_small(path), what=path, limit_bytes=_MAX_BYTES))
        except FormatError as error:
            raise StoreCorrupt(error.message) from None

    def get(self, text: str) -> Network:
        """Find a network by its whole ID, its name, or a unique start of its ID; raises NoSuchNetwork."""
        if text in ("bridge", "default"):
            return self.default()
        networks = self.all()
        for network in networks:
            if text in (network.id, network.name):
                return network
        matches = [network for network in networks if text and network.id.startswith(text)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise NoSuchNetwork(f"network {text} is ambiguous ({len(matches)} matches found based on ID prefix)")
        raise NoSuchNetwork(f"network {text} not found")

    def write(self, network: Network) -> None:
        """Put a network on record, to stay."""
        if not os.path.isdir(self.path):
            make_directory(self.path, 0o700)
        self.root.write_file(
            f"{PRIVATE_DIR}/network/{network.id}.json", encode_json(network.to_document()) + b"\n", 0o600
        )

    def remove(self, network: Network) -> None:
        """Forget a network; one that has gone is fine."""
        try:
            os.unlink(f"{self.path}/{network.id}.json")
        except FileNotFoundError:
            return
        sync_directory(self.path)
