"""docker network: make, list, show, remove and prune networks. Source: moby daemon/network.go, api/types/network"""

from __future__ import annotations

import time

from minidock.errors import Conflict, MinidockError, UsageError
from minidock.formats.subnets import Subnet, default_pools, free_pool
from minidock.ids import random_hex64
from minidock.network.joining import reclaim_locked
from minidock.store.endpoints import NetworkLock
from minidock.store.networks import BRIDGE_NAME, Network, Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minidock.store.root import DataRoot

_PREDEFINED = ("bridge", "host", "none", "default")
_NAME_START = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_START | frozenset("_.-")
_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_TRUE, _FALSE = ("1", "true"), ("0", "false")
# Of a link, its closing NUL not counted.
_MAX_LINK_NAME = 15


def create_network(
    root: DataRoot,
    name: str,
    *,
    driver: str = "bridge",
    subnets: Sequence[str] = (),
    gateways: Sequence[str] = (),
    ip_ranges: Sequence[str] = (),
    internal: bool = False,
    ipv6: bool = False,
    labels: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> Network:
    """Make a network: its record, its rules and its bridge, or nothing.

    Shape:  subnets: at most one for each family; without one for IPv4 a free one of docker's pools is taken
    Raises: UsageError, Conflict with docker's words; SyscallError
    """
    from minidock.network.made import make_bridge

    _check_name(name)
    if driver != "bridge":
        raise UsageError(f'plugin "{driver}" not found', hint="networks of minidock are bridges")
    asked = _read_pools(subnets, gateways, ip_ranges)
    network = Network(
        network_id=random_hex64(),
        name=name,
        pools=asked,
        internal=internal,
        ipv6=ipv6,
        options=options,
        labels=labels,
        created_ns=time.time_ns(),
        was_asked=bool(asked),
    )
    _check_options(network)
    with NetworkLock(root):
        reclaim_locked(root)
        if any(other.name == name for other in root.networks.made()):
            raise Conflict(f"network with name {name} already exists")
        from minidock.linux.netlink import Netlink
        from minidock.network.bridge import NamespaceLock, bridge_subnets, taken_subnets

        with NamespaceLock(), Netlink() as link:
            _settle_pools(network, taken_subnets(root, link), bridge_subnets(root, link))
            # The record first: whatever happens then, a start completes what is missing.
            root.networks.write(network)
            try:
                make_bridge(root, network)
            except BaseException:
                root.networks.remove(network)
                raise
    return network


def _check_name(name: str) -> None:
    if name in _PREDEFINED:
        raise UsageError(f"operation is not permitted on predefined {name} network")
    if not name or name[0] not in _NAME_START or not _NAME_REST.issuperset(name):
        raise UsageError(f'invalid network name "{name}", only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed')


def _check_options(network: Network) -> None:
    bridge = network.options.get(BRIDGE_NAME, "")
    if len(bridge) > _MAX_LINK_NAME or "/" in bridge or any(letter.isspace() for letter in bridge):
        raise UsageError(f"the bridge's name {bridge} is not one of at most {_MAX_LINK_NAME} characters for a link")
    mtu = network.options.get("com.docker.network.driver.mtu", "")
    if mtu and not (mtu.isascii() and mtu.isdecimal() and 68 <= int(mtu) <= 65535):
        raise UsageError(f"invalid MTU: {mtu}")


def _read_pools(subnets: Sequence[str], gateways: Sequence[str], ip_ranges: Sequence[str]) -> list[Pool]:
    """Which gateway and range go with which subnet. Source: docker/cli cli/command/network/create.go"""
    if (gateways or ip_ranges) and not subnets:
        raise UsageError("every ip-range or gateway must have a corresponding subnet")
    pools: list[Pool] = []
    for text in subnets:
        try:
            subnet = Subnet.parse(text)
        except UsageError as error:
            raise UsageError(f"Invalid subnet {text} : {error.message}") from None
        if any(subnet.overlaps(pool.subnet) for pool in pools):
            raise UsageError("multiple overlapping subnet configuration is not supported")
        if any(pool.subnet.bits == subnet.bits for pool in pools):
            raise UsageError("bridge driver doesn't support multiple subnets")
        pools.append(Pool(subnet, shows_gateway=False))
    for text in ip_ranges:
        ip_range = Subnet.parse(text)
        pool = _pool_of(pools, text.partition("/")[0])
        if pool is None or ip_range.prefix < pool.subnet.prefix:
            raise UsageError(f"no matching subnet for range {text}")
        pool.ip_range = ip_range
    for text in gateways:
        pool = _pool_of(pools, text)
        if pool is None:
            raise UsageError(f"no matching subnet for gateway {text}")
        pool.gateway, pool.shows_gateway = text, True
    return pools


def _pool_of(pools: Sequence[Pool], address: str) -> Pool | None:
    return next((pool for pool in pools if pool.subnet.holds(address)), None)


def _settle_pools(network: Network, taken: Sequence[Subnet], own: Sequence[Subnet]) -> None:
    """Take a free subnet where none was asked for; one that was asked for may overlap the host's but no network's."""
    for pool in network.pools:
        if any(pool.subnet.overlaps(other) for other in own):
            raise Conflict("Pool overlaps with other one on this address space")
        if pool.is_ipv6:
            network.ipv6 = True
    if network.pool() is None:
        network.pools.insert(0, Pool(_free_pool(taken)))
    if network.ipv6 and network.pool(ipv6=True) is None:
        raise UsageError(
            "could not find an available, non-overlapping IPv6 address pool among the defaults to assign to the "
            "network",
            hint="give one with --subnet, such as fd00:1::/64",
        )


def _free_pool(taken: Sequence[Subnet]) -> Subnet:
    """A free pool, but the first one, which the default network may want later, only when there is no other."""
    try:
        return free_pool([*taken, next(default_pools())])
    except UsageError:
        return free_pool(taken)


def list_networks(root: DataRoot, filters: Sequence[str] = ()) -> list[Network]:
    """The networks that all filters want, by name.

    Raises: UsageError for an unknown filter
    """
    wanted = _read_filters(filters)
    used = {one.network_id for member in root.endpoints.all() if member.is_live for one in member.endpoints}
    return [network for network in root.networks.all() if _matches(network, wanted, used)]


def _read_filters(filters: Sequence[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        key = key.strip().lower()
        if not equals:
            raise UsageError("bad format of filter (expected name=value)")
        if key not in _FILTERS:
            raise UsageError(f"Invalid filter '{key}'")
        if key == "type" and value not in ("custom", "builtin"):
            raise UsageError(f"Invalid filter: 'type'='{value}'")
        if key == "dangling" and value not in _TRUE + _FALSE:
            raise UsageError(f"Invalid filter 'dangling=[{value}]'")
        wanted.setdefault(key, []).append(value)
    return wanted


def _matches(network: Network, wanted: dict[str, list[str]], used: set[str]) -> bool:
    from minidock.verbs.volume import has_labels

    is_custom = not network.is_predefined
    if "dangling" in wanted:
        is_dangling = is_custom and network.id not in used
        if is_dangling != (wanted["dangling"][0] in _TRUE):
            return False
    tests = {
        "driver": lambda value: value == network.driver,
        "id": lambda value: value in network.id,
        "name": lambda value: value in network.name,
        "scope": lambda value: value == "local",
        "type": lambda value: (value == "custom") == is_custom,
    }
    for key, matches in tests.items():
        if key in wanted and not any(map(matches, wanted[key])):
            return False
    return has_labels(network.labels, wanted.get("label", ()))


def inspect_network(root: DataRoot, name: str) -> dict[str, Any]:
    """All that is known of a network, in docker's shape; raises NoSuchNetwork."""
    from minidock.network.bridge import look_at
    from minidock.store.networks import pool_document

    network = root.networks.get(name)
    if network.is_default:
        look_at(network)
    document = network.to_document()
    containers: dict[str, Any] = {}
    for member in root.endpoints.all():
        one = member.endpoint(network.id)
        if one is None or not member.is_live:
            continue
        try:
            container_name = root.containers.get(member.container_id).name
        except MinidockError:
            continue
        containers[member.container_id] = {
            "Name": container_name,
            "EndpointID": one.endpoint_id,
            "MacAddress": one.mac,
            "IPv4Address": f"{one.address}/{one.prefix}",
            "IPv6Address": f"{one.address6}/{one.prefix6}" if one.address6 else "",
        }
    keys = ("Name", "Id", "Created", "Scope", "Driver", "EnableIPv6")
    return {
        **{key: document[key] for key in keys},
        "IPAM": {
            "Driver": "default",
            "Options": None if network.is_predefined else {},
            "Config": [pool_document(pool) for pool in network.pools],
        },
        "Internal": network.internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": containers,
        "Options": dict(sorted(network.options.items())),
        "Labels": dict(sorted(network.labels.items())),
    }


def remove_network(root: DataRoot, name: str) -> Network:
    """Remove a network that no running container is on.

    Raises: NoSuchNetwork; Conflict while it has endpoints, or for one that is always there
    """
    with NetworkLock(root):
        members = reclaim_locked(root)
        network = root.networks.get(name)
        if network.is_predefined:
            raise Conflict(f"{network.name} is a pre-defined network and cannot be removed")
        if any(member.endpoint(network.id) is not None for member in members):
            raise Conflict(f"error while removing network: network {network.name} id {network.id} has active endpoints")
        _remove(root, network)
    return network


def _remove(root: DataRoot, network: Network) -> None:
    from minidock.network.made import is_ours, remove_bridge

    # The record last: what is cut short is removed by the next try.
    remove_bridge(root, network.bridge, is_ours=is_ours(root, network.bridge))
    root.networks.remove(network)


def prune_networks(
    root: DataRoot, *, until_ns: int | None = None, labels: Sequence[str] = (), without: Sequence[str] = ()
) -> list[str]:
    """Remove the networks that no running container is on. Returns: the names of those removed"""
    from minidock.verbs.volume import has_labels

    names: list[str] = []
    with NetworkLock(root):
        members = reclaim_locked(root)
        for network in root.networks.made():
            if any(member.endpoint(network.id) is not None for member in members):
                continue
            if until_ns is not None and network.created_ns > until_ns:
                continue
            if not has_labels(network.labels, labels) or any(has_labels(network.labels, [text]) for text in without):
                continue
            try:
                _remove(root, network)
            except (MinidockError, OSError):
                # Something else is plugged in: it stays, and keeps none of the others.
                continue
            names.append(network.name)
    return names
