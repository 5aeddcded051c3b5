"""config.v2.json and hostconfig.json: what an engine keeps about one container.

Both are one line of JSON with a final newline, keys in the order of the engine's structs. A document is
kept as the dict it was read as, so the fields of another engine's version survive a round trip; the
properties here are the ones minidock uses, each checked when it is read.

Source: moby container/container.go, api/types/container/{config,host_config}.go; shared format notes §5
"""

from __future__ import annotations

from minidock.errors import BadConfig, FormatError
from minidock.formats.gojson import encode_json, format_time, parse_json, parse_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NEVER = "0001-01-01T00:00:00Z"
MAX_BYTES = 16 << 20

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def encode_record(document: dict[str, Any]) -> bytes:
    """The bytes of config.v2.json or hostconfig.json; bytes that are not UTF-8 become U+FFFD, as in Go."""
    raw = encode_json(document) + b"\n"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace").encode("utf-8")
    return raw


def time_text(time_ns: int) -> str:
    """RFC 3339 text of a time; 0 is the engine's "never"."""
    return format_time(time_ns) if time_ns else NEVER


def time_of(text: str) -> int:
    """Nanoseconds since 1970 of an engine's time text; 0 for "never" and for anything unreadable."""
    try:
        return max(0, parse_time(text))
    except FormatError:
        return 0


class ContainerConfig:
    """A container's config.v2.json together with its hostconfig.json.

    Shape:  document and host are the parsed JSON objects; `what` names the container in errors
    Raises: BadConfig from any property whose value has the wrong type
    """

    __slots__ = ("document", "host", "what")

    def __init__(self, document: dict[str, Any], host: dict[str, Any], *, what: str = "container") -> None:
        self.document = document
        self.host = host
        self.what = what

    @classmethod
    def parse(cls, raw: bytes, raw_host: bytes, *, what: str) -> ContainerConfig:
        """Read both files' bytes; raises BadConfig."""
        try:
            document = parse_json(raw, what=f"{what}: config.v2.json", limit_bytes=MAX_BYTES)
            host = parse_json(raw_host, what=f"{what}: hostconfig.json", limit_bytes=MAX_BYTES)
        except FormatError as error:
            raise BadConfig(error.message) from None
        return cls(document, host, what=what)

    def _value(self, where: dict[str, Any], key: str, kind: type, default: Any) -> Any:
        value = where.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise BadConfig(f"{self.what}: {key} has the wrong type in its configuration")
        return value

    def _texts(self, where: dict[str, Any], key: str) -> list[str]:
        values = self._value(where, key, list, [])
        for value in values:
            if not isinstance(value, str):
                raise BadConfig(f"{self.what}: {key} has the wrong type in its configuration")
        return list(values)

    def _text_map(self, where: dict[str, Any], key: str) -> dict[str, str]:
        values = self._value(where, key, dict, {})
        return {name: value if isinstance(value, str) else "" for name, value in values.items()}

    @property
    def run(self) -> dict[str, Any]:
        """The `Config` object: what the container's process is."""
        value: dict[str, Any] = self._value(self.document, "Config", dict, {})
        return value

    @property
    def state(self) -> dict[str, Any]:
        """The `State` object as the file has it; never says running in what minidock writes."""
        value: dict[str, Any] = self._value(self.document, "State", dict, {})
        return value

    @property
    def name(self) -> str:
        """The container's name without the leading slash of the file."""
        value: str = self._value(self.document, "Name", str, "")
        return value.removeprefix("/")

    @property
    def image_id(self) -> str:
        """The image's ID, `sha256:...`; may be empty in a foreign container."""
        value: str = self._value(self.document, "Image", str, "")
        return value

    @property
    def image(self) -> str:
        """The image as the user typed it."""
        value: str = self._value(self.run, "Image", str, "")
        return value

    @property
    def path(self) -> str:
        """The program: first word of the command."""
        value: str = self._value(self.document, "Path", str, "")
        return value

    @property
    def arguments(self) -> list[str]:
        """The words after the program."""
        return self._texts(self.document, "Args")

    @property
    def created_ns(self) -> int:
        """When the container was created."""
        return time_of(self._value(self.document, "Created", str, ""))

    @property
    def environment(self) -> list[str]:
        """`NAME=value` entries."""
        return self._texts(self.run, "Env")

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the image and of the command line together."""
        return self._text_map(self.run, "Labels")

    @property
    def stop_signal(self) -> str:
        """The signal that `stop` sends; empty means SIGTERM."""
        value: str = self._value(self.run, "StopSignal", str, "")
        return value

    @property
    def is_tty(self) -> bool:
        """Whether the process gets a terminal of its own."""
        return self._value(self.run, "Tty", bool, False) is True

    @property
    def opens_stdin(self) -> bool:
        """Whether the process gets a standard input at all."""
        return self._value(self.run, "OpenStdin", bool, False) is True

    def run_text(self, key: str) -> str:
        """A text field of `Config`."""
        value: str = self._value(self.run, key, str, "")
        return value

    def host_text(self, key: str) -> str:
        """A text field of hostconfig.json."""
        value: str = self._value(self.host, key, str, "")
        return value

    def host_flag(self, key: str) -> bool:
        """A boolean field of hostconfig.json."""
        return self._value(self.host, key, bool, False) is True

    def host_texts(self, key: str) -> list[str]:
        """A list of texts in hostconfig.json."""
        return self._texts(self.host, key)

    def host_map(self, key: str) -> dict[str, str]:
        """A map of texts in hostconfig.json."""
        return self._text_map(self.host, key)

    def host_number(self, key: str, default: int) -> int:
        """A whole number in hostconfig.json; 0 counts as not given."""
        value: int = self._value(self.host, key, int, 0)
        return value or default

    @property
    def mount_points(self) -> list[dict[str, Any]]:
        """The MountPoints objects, by destination."""
        points = self._value(self.document, "MountPoints", dict, {})
        return [points[key] for key in sorted(points) if isinstance(points[key], dict)]


def state_document(
    *, exit_code: int = 0, error: str = "", started_ns: int = 0, finished_ns: int = 0, oom_killed: bool = False
) -> dict[str, Any]:
    """The `State` object of a container that does not run."""
    return {
        "Running": False,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": oom_killed,
        "RemovalInProgress": False,
        "Dead": False,
        "Pid": 0,
        "ExitCode": exit_code,
        "Error": error,
        "StartedAt": time_text(started_ns),
        "FinishedAt": time_text(finished_ns),
        "Health": None,
    }


def endpoint_document() -> dict[str, Any]:
    """One entry of NetworkSettings.Networks for a network without addresses."""
    return {
        "IPAMConfig": None,
        "Links": None,
        "Aliases": None,
        "NetworkID": "",
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "MacAddress": "",
        "DriverOpts": None,
        "IPAMOperational": False,
    }


def container_document(
    *,
    container_id: str,
    name: str,
    image_id: str,
    created_ns: int,
    argv: list[str],
    run: dict[str, Any],
    networks: dict[str, Any],
    mount_points: dict[str, Any],
) -> dict[str, Any]:
    """A new container's config.v2.json, keys in the order of Docker 20.10.

    Shape: run is the finished `Config` object, argv the entry point and command joined; networks: an endpoint_document
           for each network's name
    """
    return {
        "StreamConfig": {},
        "State": state_document(),
        "ID": container_id,
        "Created": time_text(created_ns),
        "Managed": False,
        "Path": argv[0] if argv else "",
        "Args": argv[1:],
        "Config": run,
        "Image": image_id,
        "NetworkSettings": {
            "Bridge": "",
            "SandboxID": "",
            "HairpinMode": False,
            "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0,
            "Networks": networks,
            "Service": None,
            "Ports": None,
            "SandboxKey": "",
            "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None,
            "IsAnonymousEndpoint": False,
            "HasSwarmEndpoint": False,
        },
        "LogPath": "",
        "Name": "/" + name,
        "Driver": "overlay2",
        "OS": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "RestartCount": 0,
        "HasBeenStartedBefore": False,
        "HasBeenManuallyStopped": False,
        "MountPoints": mount_points,
        "SecretReferences": None,
        "ConfigReferences": None,
        "AppArmorProfile": "",
        "HostnamePath": "",
        "HostsPath": "",
        "ShmPath": "",
        "ResolvConfPath": "",
        "SeccompProfile": "",
        "NoNewPrivileges": False,
        "LocalLogCacheMeta": {"HaveNotifyEnabled": False},
    }


def _no_limits(cgroup_parent: str) -> dict[str, Any]:
    """The part of hostconfig.json that is about limits, all of them unset."""
    return {
        "CpuShares": 0,
        "Memory": 0,
        "NanoCpus": 0,
        "CgroupParent": cgroup_parent,
        "BlkioWeight": 0,
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": None,
        "BlkioDeviceWriteBps": None,
        "BlkioDeviceReadIOps": None,
        "BlkioDeviceWriteIOps": None,
        "CpuPeriod": 0,
        "CpuQuota": 0,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": "",
        "CpusetMems": "",
        "Devices": [],
        "DeviceCgroupRules": None,
        "DeviceRequests": None,
        "KernelMemory": 0,
        "KernelMemoryTCP": 0,
        "MemoryReservation": 0,
        "MemorySwap": 0,
        "MemorySwappiness": None,
        "OomKillDisable": False,
        "PidsLimit": None,
        "Ulimits": None,
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    }


def host_document(
    *,
    binds: list[str],
    mounts: list[dict[str, Any]],
    tmpfs: dict[str, str],
    network: str,
    cap_add: list[str],
    cap_drop: list[str],
    privileged: bool,
    read_only: bool,
    group_add: list[str],
    init: bool,
    cidfile: str,
    shm_size_bytes: int,
    cgroup_parent: str,
    cgroup_namespace: str,
    volumes_from: list[str] | None = None,
) -> dict[str, Any]:
    """A new container's hostconfig.json, keys in the order of Docker 20.10.

    AutoRemove is never true here: an engine that takes the data root over would delete the container at
    its start. minidock keeps that wish in a file of its own.
    """
    document: dict[str, Any] = {
        "Binds": binds or None,
        "ContainerIDFile": cidfile,
        "LogConfig": {"Type": "json-file", "Config": {}},
        "NetworkMode": network,
        "PortBindings": {},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "VolumeDriver": "",
        "VolumesFrom": volumes_from or None,
        "CapAdd": cap_add or None,
        "CapDrop": cap_drop or None,
        "CgroupnsMode": cgroup_namespace,
        "Dns": [],
        "DnsOptions": [],
        "DnsSearch": [],
        "ExtraHosts": None,
        "GroupAdd": group_add or None,
        "IpcMode": "private",
        "Cgroup": "",
        "Links": None,
        "OomScoreAdj": 0,
        "PidMode": "",
        "Privileged": privileged,
        "PublishAllPorts": False,
        "ReadonlyRootfs": read_only,
        "SecurityOpt": ["label=disable"] if privileged else None,
    }
    if tmpfs:
        document["Tmpfs"] = tmpfs
    document.update(
        {
            "UTSMode": "",
            "UsernsMode": "",
            "ShmSize": shm_size_bytes,
            "Runtime": "runc",
            "ConsoleSize": [0, 0],
            "Isolation": "",
            **_no_limits(cgroup_parent),
        }
    )
    if mounts:
        document["Mounts"] = mounts
    document["MaskedPaths"] = None if privileged else list(MASKED_PATHS)
    document["ReadonlyPaths"] = None if privileged else list(READONLY_PATHS)
    if init:
        document["Init"] = True
    return document
