"""The options of `create` and `run` about networks, read into the fields of a container's two records.

Source: moby runconfig/hostconfig_unix.go, runconfig/errors.go; docker/cli cli/command/container/opts.go, opts/opts.go
"""

from __future__ import annotations

from minidock.errors import InvalidOption, UsageError
from minidock.formats.containerconfig import endpoint_document
from minidock.formats.subnets import number_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minidock.store.root import DataRoot
    from minidock.verbs.options import CreateOptions

_HEX = frozenset("0123456789abcdefABCDEF")


class NetworkChoice:
    """What was asked for.

    Shape: mode: as hostconfig.json has it; networks: NetworkSettings.Networks; host, run: fields of hostconfig.json and
           of Config
    """

    __slots__ = ("host", "mode", "networks", "run", "warnings")

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.networks: dict[str, Any] = {}
        self.host: dict[str, Any] = {}
        self.run: dict[str, Any] = {}
        self.warnings: list[str] = []

    @property
    def is_container(self) -> bool:
        """Whether another container's network is shared."""
        return self.mode.startswith("container:")

    @property
    def is_user_defined(self) -> bool:
        """Whether it is a network that somebody made."""
        return self.mode not in ("default", "bridge", "none", "host") and not self.is_container


def choose_network(root: DataRoot, options: CreateOptions) -> NetworkChoice:
    """Read --network and the options that go with it.

    Raises: NoSuchNetwork, NoSuchContainer, UsageError with docker's words
    """
    words = options.networking
    choice = NetworkChoice(options.network)
    if choice.is_container:
        _share(root, choice, options.network.removeprefix("container:"))
    _read_host_fields(choice, words)
    _check_conflicts(choice, options)
    mac = str(words.get("mac_address") or "")
    if mac:
        choice.run["MacAddress"] = _mac_address(mac)
    if choice.is_container:
        return choice
    _read_ports(choice, words)
    name = "bridge" if choice.mode == "default" else choice.mode
    if choice.is_user_defined:
        name = root.networks.get(choice.mode).name
    choice.networks[name] = _endpoint(root, choice, name, words)
    return choice


def _share(root: DataRoot, choice: NetworkChoice, name: str) -> None:
    if not name:
        raise UsageError("Invalid network mode: invalid container format container:<name|id>")
    choice.mode = f"container:{root.containers.get(name).id}"


def _check_conflicts(choice: NetworkChoice, options: CreateOptions) -> None:
    words = options.networking
    if choice.is_container:
        for given, what in (
            (options.hostname, "hostname and the network mode"),
            (words.get("dns"), "dns and the network mode"),
            (words.get("add_host"), "custom host-to-IP mapping and the network mode"),
            (words.get("mac_address"), "mac-address and the network mode"),
            (
                words.get("publish") or words.get("publish_all"),
                "port publishing and the container type network mode",
            ),
            (words.get("expose"), "port exposing and the container type network mode"),
        ):
            if given:
                raise UsageError(f"conflicting options: {what}")
    if choice.mode == "host" and words.get("mac_address"):
        raise UsageError("conflicting options: mac-address and the network mode")
    if choice.mode == "host" and (words.get("publish") or words.get("publish_all")):
        choice.warnings.append("Published ports are discarded when using host network mode")
    if not choice.is_user_defined:
        if words.get("ip") or words.get("ip6"):
            raise UsageError("user specified IP address is supported on user defined networks only")
        if words.get("network_alias"):
            raise InvalidOption("network-scoped aliases are only supported for user-defined networks")


def _read_host_fields(choice: NetworkChoice, words: dict[str, Any]) -> None:
    for option, field, check in (
        ("dns", "Dns", _ip_address),
        ("dns_search", "DnsSearch", _domain),
        ("dns_option", "DnsOptions", _plain),
        ("add_host", "ExtraHosts", _extra_host),
    ):
        if texts := words.get(option):
            choice.host[field] = [check(option, text) for text in texts]


def _read_ports(choice: NetworkChoice, words: dict[str, Any]) -> None:
    if not (words.get("publish") or words.get("publish_all") or words.get("expose")):
        return
    from minidock.formats.portspec import port_documents

    exposed, bindings = port_documents(words.get("publish") or (), words.get("expose") or ())
    choice.host["PortBindings"] = bindings
    choice.host["PublishAllPorts"] = bool(words.get("publish_all"))
    if exposed:
        choice.run["ExposedPorts"] = exposed


def _endpoint(root: DataRoot, choice: NetworkChoice, name: str, words: dict[str, Any]) -> dict[str, Any]:
    document = endpoint_document()
    address, address6 = str(words.get("ip") or ""), str(words.get("ip6") or "")
    if address or address6:
        document["IPAMConfig"] = asked_addresses(root, name, address, address6)
    if aliases := words.get("network_alias"):
        document["Aliases"] = list(aliases)
    return document


def asked_addresses(
    root: DataRoot, name: str, address: str, address6: str, links: Sequence[str] = ()
) -> dict[str, Any]:
    """IPAMConfig with the addresses that somebody asked for on a network; raises UsageError, NoSuchNetwork."""
    network = root.networks.get(name)
    asked: dict[str, Any] = {}
    for text, field, is_ipv6 in ((address, "IPv4Address", False), (address6, "IPv6Address", True)):
        if not text:
            continue
        family = "IPv6" if is_ipv6 else "IPv4"
        try:
            bits = number_of(text)[1]
        except UsageError:
            bits = 0
        if bits != (128 if is_ipv6 else 32):
            raise UsageError(f"invalid {family} address: {text}")
        pool = network.pool(ipv6=is_ipv6)
        if not network.was_asked or pool is None:
            raise UsageError(
                "user specified IP address is supported only when connecting to networks with user configured subnets"
            )
        if not pool.subnet.holds(text):
            raise UsageError(f"Invalid address {text}: It does not belong to any of this network's subnets")
        asked[field] = text
    return asked


def _bad(option: str, text: str, reason: str) -> InvalidOption:
    return InvalidOption(f'invalid argument "{text}" for "--{option.replace("_", "-")}" flag: {reason}')


def _plain(option: str, text: str) -> str:
    return text


def _ip_address(option: str, text: str) -> str:
    try:
        number_of(text.strip())
    except UsageError:
        raise _bad(option, text, f"{text} is not an ip address") from None
    return text.strip()


def _domain(option: str, text: str) -> str:
    word = text.strip(" ")
    if word == ".":
        return word
    labels = word.removesuffix(".").split(".")
    allowed = all(
        label and label[0] != "-" and label[-1] != "-" and all(each.isalnum() or each in "-_" for each in label)
        for label in labels
    )
    if not (allowed and word.isascii() and any(each.isalpha() for each in word)):
        raise _bad(option, text, f"{text} is not a valid domain")
    return word


def _extra_host(option: str, text: str) -> str:
    name, colon, address = text.partition(":")
    if not colon or not name:
        raise _bad(option, text, f'bad format for add-host: "{text}"')
    if address != "host-gateway":
        try:
            number_of(address)
        except UsageError:
            raise _bad(option, text, f'invalid IP address in add-host: "{address}"') from None
    return text


def _mac_address(text: str) -> str:
    parts = text.replace("-", ":").split(":")
    if len(parts) != 6 or not all(len(part) == 2 and _HEX.issuperset(part) for part in parts):
        raise InvalidOption(f"{text} is not a valid mac address")
    return ":".join(parts).lower()
