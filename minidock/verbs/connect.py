"""docker network connect and disconnect. Source: moby daemon/container_operations.go"""

from __future__ import annotations

from minidock.errors import Conflict, NotFound, UsageError
from minidock.formats.containerconfig import endpoint_document
from minidock.network.joining import asked_networks, recorded_networks
from minidock.store.endpoints import NetworkLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minidock.store.containers import Container
    from minidock.store.networks import Network
    from minidock.store.root import DataRoot


def connect(
    root: DataRoot,
    network: str,
    container: str,
    *,
    address: str = "",
    address6: str = "",
    aliases: Sequence[str] = (),
) -> None:
    """Connect a container to one more network, at once if it runs, else at its next start.

    Raises: NoSuchNetwork, NoSuchContainer, Conflict, UsageError with docker's words
    """
    from minidock.verbs.networking import asked_addresses

    found = root.containers.get(container)
    with found.lock(), NetworkLock(root):
        chosen = root.networks.get(network)
        _check(found, chosen)
        asked = endpoint_document()
        # As docker's client sends them, and docker's inspect shows them.
        asked["IPAMConfig"], asked["DriverOpts"] = {}, {}
        if address or address6:
            asked["IPAMConfig"] = asked_addresses(root, chosen.name, address, address6)
        if aliases:
            if chosen.is_default:
                raise UsageError("network-scoped alias is supported only for containers in user defined networks")
            asked["Aliases"] = list(aliases)
        if found.is_running():
            from minidock.network.connecting import connect_running

            connect_running(found, chosen, asked, found.config.run_text("Hostname"))
        _record(found, chosen, asked)


def disconnect(root: DataRoot, network: str, container: str, *, force: bool = False) -> None:
    """Take a container off a network.

    Shape:  force: a container that is not there any more is fine
    Raises: NoSuchNetwork, NoSuchContainer, NotFound when it is not connected
    """
    try:
        found = root.containers.get(container)
    except NotFound:
        root.networks.get(network)
        if force:
            return
        raise
    with found.lock(), NetworkLock(root):
        chosen = root.networks.get(network)
        if chosen.driver == "host":
            raise Conflict("container cannot be disconnected from host network or connected to host network")
        if chosen.name not in recorded_networks(found):
            raise NotFound(f"container {found.id} is not connected to network {chosen.name}")
        _record(found, chosen, None)
        if found.is_running() and chosen.driver == "bridge":
            from minidock.network.connecting import disconnect_running

            disconnect_running(found, chosen, found.config.run_text("Hostname"))


def _check(container: Container, network: Network) -> None:
    mode = container.config.host_text("NetworkMode")
    if mode.startswith("container:"):
        raise Conflict(
            "container sharing network namespace with another container or host cannot be connected to any other "
            "network"
        )
    if mode == "host" or network.driver == "host":
        raise Conflict("container cannot be disconnected from host network or connected to host network")
    if mode == "none" or network.driver == "null":
        raise Conflict(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )


def _record(container: Container, network: Network, asked: dict[str, Any] | None) -> None:
    """Put a network into config.v2.json, or take it out."""

    def change(document: dict[str, Any]) -> None:
        settings = document.setdefault("NetworkSettings", {})
        networks = {name: value or endpoint_document() for name, value in asked_networks(container).items()}
        if asked is None:
            networks.pop(network.name, None)
        else:
            networks[network.name] = asked
        settings["Networks"] = networks

    container.change_document(change)
