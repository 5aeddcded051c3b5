"""The `config` object of an image or a container: how to run a process in it, typed and checked.

Values are checked when they are read and never when they are used, so that one bad value in a stranger's
image ends in one line and not in a crash (an image with the health check `["CMD"]` kills dockerd).

Source: OCI image spec, config.md; moby api/types/container/config.go
"""

from __future__ import annotations

from minidock.errors import BadConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Docker's struct order. The second value is what stands there when nothing is set; _OMIT: then the key is absent.
_OMIT = object()
_KEYS: tuple[tuple[str, object], ...] = (
    ("Hostname", ""),
    ("Domainname", ""),
    ("User", ""),
    ("AttachStdin", False),
    ("AttachStdout", False),
    ("AttachStderr", False),
    ("ExposedPorts", _OMIT),
    ("Tty", False),
    ("OpenStdin", False),
    ("StdinOnce", False),
    ("Env", None),
    ("Cmd", None),
    ("Healthcheck", _OMIT),
    ("ArgsEscaped", _OMIT),
    ("Image", ""),
    ("Volumes", None),
    ("WorkingDir", ""),
    ("Entrypoint", None),
    ("NetworkDisabled", _OMIT),
    ("MacAddress", _OMIT),
    ("OnBuild", None),
    ("Labels", None),
    ("StopSignal", _OMIT),
    ("StopTimeout", _OMIT),
    ("Shell", _OMIT),
)
_HEALTHCHECK_KEYS = ("Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
_MAX_PORT = 65535


class Healthcheck:
    """How to ask a container whether it is well.

    Shape: test as in the config, `["CMD", …]`, `["CMD-SHELL", "…"]`, `["NONE"]` or empty (inherit)
    Units: interval_ns, timeout_ns, start_period_ns: nanoseconds, 0 for the default
    """

    __slots__ = ("interval_ns", "retries", "start_period_ns", "test", "timeout_ns")

    def __init__(self, test: list[str], interval_ns: int, timeout_ns: int, start_period_ns: int, retries: int) -> None:
        self.test = test
        self.interval_ns = interval_ns
        self.timeout_ns = timeout_ns
        self.start_period_ns = start_period_ns
        self.retries = retries


class RunConfig:
    """A checked `config` object.

    Shape: env `["NAME=value", …]` (an entry without `=` unsets the name, as docker reads it); entrypoint and cmd
           None when not set; exposed_ports and volumes the keys only; stop_signal "" and stop_timeout_s None
           for the default; document: the object as it was given
    """

    __slots__ = (
        "cmd",
        "document",
        "domainname",
        "entrypoint",
        "env",
        "exposed_ports",
        "healthcheck",
        "hostname",
        "labels",
        "on_build",
        "open_stdin",
        "shell",
        "stop_signal",
        "stop_timeout_s",
        "tty",
        "user",
        "volumes",
        "workdir",
    )

    def __init__(self, document: dict[str, Any]) -> None:
        """Check document; raises BadConfig."""
        self.document = document
        self.hostname = text_of(document, "Hostname")
        self.domainname = text_of(document, "Domainname")
        self.user = text_of(document, "User")
        self.workdir = text_of(document, "WorkingDir")
        self.env = _env_of(document)
        self.entrypoint = words_of(document, "Entrypoint")
        self.cmd = words_of(document, "Cmd")
        self.labels = _labels_of(document)
        self.exposed_ports = _keys_of(document, "ExposedPorts")
        for port in self.exposed_ports:
            _check_port(port)
        self.volumes = _keys_of(document, "Volumes")
        self.stop_signal = text_of(document, "StopSignal")
        self.stop_timeout_s = number_of(document, "StopTimeout") if document.get("StopTimeout") is not None else None
        self.healthcheck = _healthcheck_of(document)
        self.shell = words_of(document, "Shell")
        self.on_build = words_of(document, "OnBuild") or []
        self.tty = flag_of(document, "Tty")
        self.open_stdin = flag_of(document, "OpenStdin")

    def to_document(self) -> dict[str, Any]:
        """The object with Docker's keys in Docker's order, as a container's record or a commit starts from."""
        return order_run_config(self.document)


def order_run_config(document: dict[str, Any]) -> dict[str, Any]:
    """Put a `config` object into Docker's key order, absent values filled in; unknown keys are dropped as Go does.

    Source: shared format notes §6.1, "Config object order"
    """
    ordered: dict[str, Any] = {}
    for key, default in _KEYS:
        value = document.get(key)
        if default is _OMIT:
            if value or (key == "StopTimeout" and value is not None):
                ordered[key] = value
        else:
            ordered[key] = default if value is None else value
    for key in ("Cmd", "Entrypoint", "Shell"):
        if isinstance(ordered.get(key), str):
            ordered[key] = [ordered[key]]
    for key in ("ExposedPorts", "Volumes", "Labels"):
        if ordered.get(key):
            ordered[key] = dict(sorted(ordered[key].items()))
    healthcheck = ordered.get("Healthcheck")
    if healthcheck:
        ordered["Healthcheck"] = {key: healthcheck[key] for key in _HEALTHCHECK_KEYS if healthcheck.get(key)}
    return ordered


def text_of(document: dict[str, Any], key: str) -> str:
    """A string without NUL, "" when absent; raises BadConfig."""
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(key, value, "a string")
    if "\0" in value:
        raise BadConfig(f"image config: {key} contains a NUL byte")
    return value


def number_of(document: dict[str, Any], key: str) -> int:
    """A whole number that a Go int64 holds, 0 when absent; raises BadConfig."""
    value = document.get(key)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise _wrong(key, value, "a whole number")
    return value


def flag_of(document: dict[str, Any], key: str) -> bool:
    """A truth value, False when absent; raises BadConfig."""
    value = document.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def words_of(document: dict[str, Any], key: str) -> list[str] | None:
    """A list of strings, None when absent; a bare string counts as one word, as in Go's strslice."""
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise _wrong(key, value, "a list of strings")
    return [text_of({f"{key}[{index}]": word}, f"{key}[{index}]") for index, word in enumerate(value)]


def object_of(document: dict[str, Any], key: str) -> dict[str, Any]:
    """An object, {} when absent; raises BadConfig."""
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(key, value, "an object")
    return value


def _env_of(document: dict[str, Any]) -> list[str]:
    if isinstance(document.get("Env"), str):
        raise _wrong("Env", document["Env"], "a list of strings")
    env = words_of(document, "Env") or []
    for entry in env:
        if not entry or entry[0] == "=":
            raise BadConfig(f"image config: Env has an entry without a name: {entry[:40]!r}")
    return env


def _labels_of(document: dict[str, Any]) -> dict[str, str]:
    labels = object_of(document, "Labels")
    return {key: text_of(labels, key) for key in labels}


def _keys_of(document: dict[str, Any], key: str) -> list[str]:
    members = object_of(document, key)
    for name, value in members.items():
        if not name or "\0" in name:
            raise BadConfig(f"image config: {key} has an unusable key {name[:40]!r}")
        if value is not None and not isinstance(value, dict):
            raise _wrong(f"{key}[{name[:40]!r}]", value, "an object")
    return sorted(members)


def _check_port(text: str) -> None:
    numbers, _, protocol = text.partition("/")
    first, dash, last = numbers.partition("-")
    good = protocol.lower() in ("", "tcp", "udp", "sctp") and _is_port(first) and (not dash or _is_port(last))
    if not good or (dash and int(first) > int(last)):
        raise BadConfig(f"image config: ExposedPorts: {text[:40]!r} is not a port")


def _is_port(text: str) -> bool:
    return 0 < len(text) <= 5 and text.isascii() and text.isdecimal() and int(text) <= _MAX_PORT


def _healthcheck_of(document: dict[str, Any]) -> Healthcheck | None:
    if document.get("Healthcheck") is None:
        return None
    check = object_of(document, "Healthcheck")
    if isinstance(check.get("Test"), str):
        raise _wrong("Healthcheck.Test", check["Test"], "a list of strings")
    test = words_of(check, "Test") or []
    if test and test[0] in ("CMD", "CMD-SHELL") and len(test) < 2:
        raise BadConfig(f"image config: Healthcheck.Test is {test[0]} without a command")
    numbers = [number_of(check, key) for key in ("Interval", "Timeout", "StartPeriod", "Retries")]
    if min(numbers) < 0:
        raise BadConfig("image config: Healthcheck has a negative number")
    return Healthcheck(test, *numbers)


def _wrong(key: str, value: object, wanted: str) -> BadConfig:
    kind = {str: "a string", int: "a number", float: "a number", bool: "true or false", list: "a list"}
    return BadConfig(f"image config: {key} must be {wanted}, not {kind.get(type(value), 'an object')}")
