"""Ports: `-p` and `--expose` as docker reads them, and what its documents say of them.

    80   8080:80   127.0.0.1:8080:80   127.0.0.1::80   [::1]:80:80   8000-8010:80-90   8000-8010:80   53:53/udp

Each becomes a binding of one container port to a host address and a host port, which may be a range to choose from.
Source: go-connections nat/nat.go, nat/parse.go; docker/cli cli/command/container/opts.go; messages are theirs
"""

from __future__ import annotations

import _socket

from minidock.errors import FormatError, InvalidOption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_PROTOCOLS = ("tcp", "udp", "sctp")


class PortRequest:
    """A container port to be published. Shape: first_port, last_port: one of these on the host; 0, 0 for any"""

    __slots__ = ("container_port", "first_port", "host_ip", "last_port", "protocol")

    def __init__(self, protocol: str, host_ip: str, first_port: int, last_port: int, container_port: int) -> None:
        self.protocol = protocol
        self.host_ip = host_ip
        self.first_port = first_port
        self.last_port = last_port
        self.container_port = container_port


class PublishedPort:
    """A container port and where on the host it is reached.

    Shape: protocol `tcp`, `udp` or `sctp`; host_ip "" for every address, IPv4 and IPv6
    """

    __slots__ = ("container_port", "host_ip", "host_port", "protocol")

    def __init__(self, protocol: str, host_ip: str, host_port: int, container_port: int) -> None:
        self.protocol = protocol
        self.host_ip = host_ip
        self.host_port = host_port
        self.container_port = container_port

    def __repr__(self) -> str:
        return f"{self.host_ip}:{self.host_port}->{self.container_port}/{self.protocol}"

    @property
    def key(self) -> str:
        """The container's side, `80/tcp`."""
        return f"{self.container_port}/{self.protocol}"

    def to_document(self) -> list[Any]:
        """The port as JSON."""
        return [self.protocol, self.host_ip, self.host_port, self.container_port]

    @classmethod
    def from_document(cls, document: list[Any]) -> PublishedPort:
        """Read what to_document made; raises FormatError."""
        try:
            protocol, host_ip, host_port, container_port = document
            return cls(str(protocol), str(host_ip), int(host_port), int(container_port))
        except (TypeError, ValueError):
            raise FormatError("a published port's record has other fields than it should") from None


def port_documents(
    publish: Sequence[str], expose: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, str]]]]:
    """What -p and --expose ask for, as Config.ExposedPorts and HostConfig.PortBindings have it.

    Raises: UsageError in docker's words
    """
    exposed: dict[str, dict[str, Any]] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in map(_standard_notation, publish):
        for key, binding in _parse_spec(text):
            exposed[key] = {}
            bindings.setdefault(key, []).append(binding)
    for text in expose:
        if ":" in text:
            raise InvalidOption(f"invalid port format for --expose: {text}")
        protocol, numbers = _split_protocol(text)
        try:
            first, last = _parse_range(numbers)
        except ValueError as error:
            raise InvalidOption(f"invalid range format for --expose: {text}, error: {error}") from None
        if protocol and protocol not in _PROTOCOLS:
            raise InvalidOption(f"Invalid proto: {protocol}")
        for number in range(first, last + 1):
            exposed.setdefault(f"{number}/{protocol}", {})
    return dict(sorted(exposed.items())), dict(sorted(bindings.items()))


def _standard_notation(text: str) -> str:
    """`published=8080,target=80,protocol=tcp` as `8080:80/tcp`."""
    if "=" not in text:
        return text
    words = {"protocol": "tcp"}
    for word in text.split(","):
        name, equals, value = word.partition("=")
        if not equals:
            raise InvalidOption(f"invalid publish opts format (should be name=value but got '{word}')")
        words[name] = value.partition("=")[0]
    return f"{words.get('published', '')}:{words.get('target', '')}/{words['protocol']}"


def _parse_spec(text: str) -> list[tuple[str, dict[str, str]]]:
    rest, _, container_text = text.rpartition(":")
    raw_ip, _, host_text = rest.rpartition(":")
    protocol, container_text = _split_protocol(container_text)
    host_ip = _parse_ip(raw_ip)
    if not container_text:
        raise InvalidOption(f"No port specified: {text}<empty>")
    try:
        first, last = _parse_range(container_text)
    except ValueError:
        raise InvalidOption(f"Invalid containerPort: {container_text}") from None
    host_first = host_last = 0
    if host_text:
        try:
            host_first, host_last = _parse_range(host_text)
        except ValueError:
            raise InvalidOption(f"Invalid hostPort: {host_text}") from None
        if last - first != host_last - host_first and first != last:
            raise InvalidOption(
                f"Invalid ranges specified for container and host Ports: {container_text} and {host_text}"
            )
    if protocol.lower() not in _PROTOCOLS:
        raise InvalidOption(f"Invalid proto: {protocol}")
    found = []
    for offset in range(last - first + 1):
        host_port = str(host_first + offset) if host_text else ""
        if first == last and host_first != host_last:
            host_port = f"{host_first}-{host_last}"
        key = f"{first + offset}/{protocol.lower()}"
        found.append((key, {"HostIp": host_ip, "HostPort": host_port}))
    return found


def _split_protocol(text: str) -> tuple[str, str]:
    numbers, _, protocol = text.partition("/")
    return (protocol.partition("/")[0] or "tcp", numbers) if numbers else ("", "")


def _parse_ip(raw: str) -> str:
    ip = raw
    if raw.startswith("[") and raw.endswith("]"):
        ip = raw[1:-1]
    elif ":" in raw:
        raise InvalidOption(f"Invalid ip address {raw}: address {raw}:: too many colons in address")
    if ip:
        try:
            _socket.inet_pton(_socket.AF_INET6 if ":" in ip else _socket.AF_INET, ip)
        except (OSError, ValueError):
            raise InvalidOption(f"Invalid ip address: {ip}") from None
    return ip


def _parse_range(text: str) -> tuple[int, int]:
    """The first and the last port of `80` or `80-90`; raises ValueError with Go's words."""
    if not text:
        raise ValueError("Empty string specified for ports.")
    first_text, dash, last_text = text.partition("-")
    first = _parse_number(first_text)
    last = _parse_number(last_text.partition("-")[0]) if dash else first
    if last < first:
        raise ValueError(f"Invalid range specified for the Port: {text}")
    return first, last


def _parse_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if len(text) > 20 or int(text) > 65535:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


def requests_of(
    bindings: dict[str, Any] | None, exposed: dict[str, Any] | None, *, publish_all: bool
) -> list[PortRequest]:
    """What a container's documents ask to publish, those with a port of their own first.

    Raises: UsageError for what is no port
    """
    found = []
    wanted: dict[str, Any] = dict(bindings or {})
    if publish_all:
        for key in exposed or ():
            wanted[key] = wanted.get(key) or [{}]
    for key in sorted(wanted, key=_port_order):
        number_text, _, protocol = key.partition("/")
        for binding in wanted[key] or [{}]:
            host_text = binding.get("HostPort") or "0"
            try:
                container_port = _parse_number(number_text)
                first, last = _parse_range(host_text)
            except ValueError:
                raise InvalidOption(f'invalid port specification: "{key}:{host_text}"') from None
            if (protocol or "tcp") not in _PROTOCOLS:
                raise InvalidOption(f"Invalid proto: {protocol}")
            found.append(PortRequest(protocol or "tcp", _parse_ip_of(binding), first, last, container_port))
    return sorted(found, key=lambda one: (one.first_port == 0, one.first_port != one.last_port))


def _parse_ip_of(binding: dict[str, Any]) -> str:
    text = binding.get("HostIp") or ""
    return _parse_ip(f"[{text}]") if ":" in text else _parse_ip(text)


def ports_document(
    exposed: dict[str, Any] | None, published: Sequence[PublishedPort], *, has_ipv6: bool = True
) -> dict[str, Any]:
    """NetworkSettings.Ports of a running container: every exposed port, null where it is not published.

    Shape: has_ipv6: the container has an address that a port of every host address leads to, by IPv6 too
    """
    found: dict[str, Any] = dict.fromkeys(exposed or (), None)
    # The engine's sort turns the order of one port's bindings round.
    for port in reversed(published):
        found[port.key] = found.get(port.key) or []
        everywhere = ("0.0.0.0", "::") if has_ipv6 else ("0.0.0.0",)
        for host_ip in (port.host_ip,) if port.host_ip else everywhere:
            found[port.key].append({"HostIp": host_ip, "HostPort": str(port.host_port)})
    return dict(sorted(found.items()))


def published_of(document: dict[str, Any] | None) -> list[PublishedPort]:
    """The published ports that a NetworkSettings.Ports tells of; what is no port is left out."""
    found = []
    for key, bindings in sorted((document or {}).items(), key=lambda item: _port_order(item[0])):
        number, _, protocol = key.partition("/")
        for binding in bindings or ():
            host_port = str(binding.get("HostPort", "")) if isinstance(binding, dict) else ""
            if number.isdecimal() and host_port.isdecimal():
                host_ip = str(binding.get("HostIp") or "")
                found.append(PublishedPort(protocol or "tcp", host_ip, int(host_port), int(number)))
    return found


def _port_order(key: str) -> tuple[int, str]:
    number, _, protocol = key.partition("/")
    return (int(number) if number.isdecimal() and len(number) < 6 else 0), protocol


def ports_text(document: dict[str, Any] | None) -> str:
    """The PORTS column of ps: `0.0.0.0:8080->80/tcp`, neighbours with equal numbers outside as one range.

    Source: docker/cli cli/command/formatter/container.go, DisplayablePorts
    """
    rows: list[tuple[int, str, int, str]] = []
    for key, bindings in (document or {}).items():
        number, _, protocol = key.partition("/")
        if not number.isdecimal():
            continue
        if not bindings:
            rows.append((int(number), "", 0, protocol))
    rows += [(one.container_port, one.host_ip, one.host_port, one.protocol) for one in published_of(document)]
    groups: dict[tuple[str, str], list[int]] = {}
    words: list[str] = []
    outside: list[str] = []
    for port, host_ip, host_port, protocol in sorted(rows):
        if host_ip and host_port != port:
            outside.append(f"{host_ip}:{host_port}->{port}/{protocol}")
            continue
        group = groups.setdefault((host_ip, protocol), [port, port])
        if port == group[1] + 1:
            group[1] = port
        elif port != group[1]:
            words.append(_group_text(host_ip, protocol, *group))
            group[:] = [port, port]
    words += [_group_text(host_ip, protocol, *group) for (host_ip, protocol), group in groups.items()]
    return ", ".join(words + outside)


def _group_text(host_ip: str, protocol: str, first: int, last: int) -> str:
    numbers = str(first) if first == last else f"{first}-{last}"
    return f"{host_ip}:{numbers}->{numbers}/{protocol}" if host_ip else f"{numbers}/{protocol}"
