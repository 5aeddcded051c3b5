"""/etc/hosts, /etc/resolv.conf and /etc/hostname of containers, written as docker writes them.

How names are found on networks that somebody made: every member's /etc/hosts holds a line for each name of every
other, kept current by whoever joins or leaves. Docker answers such questions by a small DNS server at 127.0.0.11 in
each container's network. Files are the sounder way here: no process is needed that could die before the container
does, or that would have to be reached after a kill; nothing outside of the container, with root's rights, reads packets
that the container makes up; port 53 inside stays free; and every C library, Go and musl included, reads the file before
it asks a server. The price: programs that speak DNS themselves (dig, nslookup) see no names of containers.

Lines are put in and taken out in place, since the file is bound into the container; what the container's own user
wrote there stays.
Source: moby libnetwork/sandbox_dns_unix.go, etchosts/etchosts.go, resolvconf/resolvconf.go
"""

from __future__ import annotations

import os

from minidock.errors import SyscallError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from minidock.formats.containerconfig import ContainerConfig
    from minidock.store.containers import Container

_HOSTS = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\n"
    "ff00::0\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)
_PUBLIC_SERVERS = ("8.8.8.8", "8.8.4.4")
_PUBLIC_SERVERS6 = ("2001:4860:4860::8888", "2001:4860:4860::8844")
_RESOLV_CONF = "/etc/resolv.conf"
# Where systemd's resolver, which only the host itself reaches, keeps what it asks in turn.
_SYSTEMD_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
_LIMIT_BYTES = 1 << 20


def write_etc_files(
    container: Container,
    *,
    network: str,
    hostname: str,
    lines: Sequence[str] = (),
    ipv6: bool = False,
    host_gateway: str = "",
) -> None:
    """Write hostname, hosts and resolv.conf anew, in place, as each start does.

    Shape:  network: "none", "host" or another word; lines: what hosts says besides the usual; ipv6: whether a server
            with an IPv6 address can be reached; host_gateway: what --add-host NAME:host-gateway stands for
    Raises: UsageError when it stands for nothing
    """
    config = container.config
    if network == "host":
        hosts = _read_host("/etc/hosts") or _HOSTS.encode("ascii")
    else:
        hosts = _HOSTS.encode("ascii")
    lines = [*extra_lines(config.host_texts("ExtraHosts"), host_gateway), *lines]
    hosts += "".join(lines).encode("utf-8", "surrogateescape")
    for name, data in (
        ("hostname", hostname.encode("utf-8", "surrogateescape") + b"\n"),
        ("hosts", hosts),
        ("resolv.conf", resolv_conf(config, is_host=network == "host", ipv6=ipv6)),
    ):
        _write_in_place(f"{container.path}/{name}", data)


def _write_in_place(path: str, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(handle, 0o644)
        os.write(handle, data)
    finally:
        os.close(handle)


def own_lines(addresses: Iterable[str], hostname: str, domain: str) -> list[str]:
    """The lines for a container's own name."""
    names = f"{hostname}.{domain} {hostname}" if domain else hostname
    return [f"{address}\t{names}\n" for address in addresses]


def extra_lines(entries: Sequence[str], host_gateway: str) -> list[str]:
    """The lines of --add-host, `NAME:ADDRESS` each, of which host-gateway is an address of the host's."""
    lines = []
    for entry in entries:
        name, _, address = entry.partition(":")
        if address == "host-gateway":
            address = host_gateway
            if not address:
                raise UsageError("unable to derive the IP value for host-gateway", hint="this network has no gateway")
        lines.append(f"{address}\t{name}\n")
    return lines


def peer_lines(addresses: Iterable[str], names: Sequence[str]) -> list[str]:
    """The lines that another member's file has for a container."""
    return [f"{address}\t{' '.join(names)}\n" for address in addresses] if names else []


def change_hosts(path: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
    """Put lines into a hosts file and take others out, in place; a file that has gone is fine.

    Raises: SyscallError
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SyscallError(f"open {path}", error.errno or 5) from None
    try:
        gone = {line.encode("utf-8", "surrogateescape") for line in remove}
        old = os.read(handle, _LIMIT_BYTES)
        kept = [line for line in old.splitlines(keepends=True) if line not in gone]
        if kept and not kept[-1].endswith(b"\n"):
            kept[-1] += b"\n"
        known = set(kept)
        kept += [raw for line in add if (raw := line.encode("utf-8", "surrogateescape")) not in known]
        new = b"".join(kept)
        if new != old:
            # One write, so that whoever reads meanwhile finds whole lines; what is shorter is cut after.
            os.pwrite(handle, new, 0)
            os.ftruncate(handle, len(new))
    except OSError as error:
        raise SyscallError(f"write {path}", error.errno or 5) from None
    finally:
        os.close(handle)


def resolv_conf(config: ContainerConfig, *, is_host: bool, ipv6: bool) -> bytes:
    """What a container's resolv.conf is to hold."""
    text = _host_resolv_conf()
    given = [config.host_texts(key) for key in ("DnsSearch", "Dns", "DnsOptions")]
    if not any(given):
        return text if is_host else filter_resolv_conf(text, ipv6=ipv6)
    search, servers, options = given
    lines = []
    search = search or _words(text, b"search")[-1:]
    joined = " ".join(search)
    if joined.strip() not in ("", "."):
        lines.append(f"search {joined}\n")
    for server in servers or [word for line in _words(text, b"nameserver") for word in line.split()[:1]]:
        lines.append(f"nameserver {server}\n")
    joined = " ".join(options or _words(text, b"options")[-1:])
    if joined.strip():
        lines.append(f"options {joined}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def _words(text: bytes, key: bytes) -> list[str]:
    """What follows a keyword, for each of its lines."""
    found = []
    for line in text.splitlines():
        first, _, rest = line.strip().partition(b" ")
        if first == key and rest.strip():
            found.append(" ".join(rest.decode("utf-8", "surrogateescape").split()))
    return found


def filter_resolv_conf(text: bytes, *, ipv6: bool = False) -> bytes:
    """The host's resolv.conf without servers that only the host itself reaches; with none left, public ones."""
    kept: list[bytes] = []
    servers = 0
    for line in text.splitlines():
        words = line.split()
        if words[:1] == [b"nameserver"] and len(words) > 1:
            if words[1].startswith(b"127.") or words[1] in (b"::1", b"0.0.0.0") or (b":" in words[1] and not ipv6):
                continue
            servers += 1
        kept.append(line)
    result = b"\n".join(kept) + b"\n" if kept else b""
    if servers:
        return result
    public = _PUBLIC_SERVERS + (_PUBLIC_SERVERS6 if ipv6 else ())
    return result + "".join(f"nameserver {server}\n" for server in public).encode("ascii")


def host_name_servers() -> list[str]:
    """The servers that the host asks."""
    from minidock.formats.subnets import number_of

    found = []
    for line in _words(_host_resolv_conf(), b"nameserver"):
        try:
            number_of(line.split()[0])
        except UsageError:
            continue
        found.append(line.split()[0])
    return found


def _host_resolv_conf() -> bytes:
    text = _read_host(_RESOLV_CONF)
    if _words(text, b"nameserver") == ["127.0.0.53"]:
        return _read_host(_SYSTEMD_RESOLV_CONF) or text
    return text


def _read_host(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(_LIMIT_BYTES) or b""
    except OSError:
        return b""
