"""The options that `create` and `run` share, with docker's names, and how their words are read."""

from __future__ import annotations

import os

from minidock.errors import InvalidOption, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_NAME_START = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_START | frozenset("_.-")
DEFAULT_SHM_SIZE_BYTES = 64 << 20

# Two short lists of our own; 40 x 40 names before a number is needed.
_ADJECTIVES = (
    "amber ample brave brisk calm candid clear clever cosy daring eager early fair famous fond frank gentle glad "
    "happy honest humble jolly keen kind lively loyal lucky mellow merry modest noble patient proud quiet rapid "
    "serene steady sunny tidy witty"
).split()
_SURNAMES = (
    "abel ampere bernoulli bessel boole cantor cauchy cayley crick dalton dirac dyson euler faraday fermat fourier "
    "galois gauss hamilton hilbert hooke huygens joule kelvin kepler lagrange laplace leibniz maxwell mendel newton "
    "noether pascal pauli planck riemann sagan turing volta wiener"
).split()


class CreateOptions:
    """What `docker create` takes besides image and command.

    Shape: health: a Healthcheck object as docker has it, None for the image's;
           env, env_file, labels, volumes, mounts, tmpfs, cap_add, cap_drop, group_add as typed, one string each;
           entrypoint None: the image's, "": none; network: "default", "none", "host", "container:NAME" or a network's
           name; networking: the words that verbs.networking reads, those that are given; pull "missing" or "never",
           both of which never reach for a registry; limits: fields of hostconfig.json such as Memory, those that are
           set; isolation: the words that verbs.isolation reads, those that are given; rare: likewise the words that
           verbs.hostoptions reads; platform: `os/architecture` that the image must be of; streams: what -a
           names, none for both outputs
    """

    __slots__ = (
        "attach",
        "cap_add",
        "cap_drop",
        "cidfile",
        "domainname",
        "entrypoint",
        "env",
        "env_file",
        "group_add",
        "health",
        "hostname",
        "init",
        "interactive",
        "isolation",
        "label_file",
        "labels",
        "limits",
        "log_driver",
        "log_opts",
        "mounts",
        "name",
        "network",
        "networking",
        "platform",
        "privileged",
        "pull",
        "rare",
        "read_only",
        "restart",
        "rm",
        "shm_size",
        "stop_signal",
        "stop_timeout",
        "streams",
        "tmpfs",
        "tty",
        "user",
        "volumes",
        "volumes_from",
        "workdir",
    )

    def __init__(
        self,
        *,
        name: str = "",
        env: Sequence[str] = (),
        env_file: Sequence[str] = (),
        labels: Sequence[str] = (),
        label_file: Sequence[str] = (),
        workdir: str = "",
        user: str = "",
        group_add: Sequence[str] = (),
        hostname: str = "",
        entrypoint: str | None = None,
        volumes: Sequence[str] = (),
        volumes_from: Sequence[str] = (),
        mounts: Sequence[str] = (),
        tmpfs: Sequence[str] = (),
        read_only: bool = False,
        network: str = "default",
        networking: dict[str, Any] | None = None,
        cap_add: Sequence[str] = (),
        cap_drop: Sequence[str] = (),
        privileged: bool = False,
        init: bool = False,
        tty: bool = False,
        interactive: bool = False,
        rm: bool = False,
        cidfile: str = "",
        pull: str = "missing",
        stop_signal: str = "",
        stop_timeout: int | None = None,
        shm_size: int = DEFAULT_SHM_SIZE_BYTES,
        restart: str = "no",
        log_driver: str = "",
        log_opts: Sequence[str] = (),
        health: dict[str, Any] | None = None,
        limits: dict[str, Any] | None = None,
        isolation: dict[str, Any] | None = None,
        rare: dict[str, Any] | None = None,
        domainname: str = "",
        platform: str = "",
        attach: bool = True,
        streams: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.env = list(env)
        self.env_file = list(env_file)
        self.labels = list(labels)
        self.label_file = list(label_file)
        self.workdir = workdir
        self.user = user
        self.group_add = list(group_add)
        self.hostname = hostname
        self.entrypoint = entrypoint
        self.volumes = list(volumes)
        self.volumes_from = list(volumes_from)
        self.mounts = list(mounts)
        self.tmpfs = list(tmpfs)
        self.read_only = read_only
        self.network = network or "default"
        self.networking = dict(networking or {})
        self.cap_add = list(cap_add)
        self.cap_drop = list(cap_drop)
        self.privileged = privileged
        self.init = init
        self.tty = tty
        self.interactive = interactive
        self.rm = rm
        self.cidfile = cidfile
        self.pull = pull
        self.stop_signal = stop_signal
        self.stop_timeout = stop_timeout
        self.shm_size = shm_size
        self.restart = restart
        self.log_driver = log_driver
        self.log_opts = list(log_opts)
        self.health = health
        self.limits = dict(limits or {})
        self.isolation = dict(isolation or {})
        self.rare = dict(rare or {})
        self.domainname = domainname
        self.platform = platform
        self.attach = attach
        self.streams = list(streams)

    def attaches(self, stream: str) -> bool:
        """Whether `stdin`, `stdout` or `stderr` is attached; without a list of streams both outputs are."""
        if stream == "stdin":
            return self.attach and (self.interactive or stream in self.streams)
        return self.attach and (not self.streams or stream in self.streams)


def check_name(name: str) -> str:
    """Check a container's name by docker's rule and return it without a leading slash; raises UsageError."""
    plain = name.removeprefix("/")
    if len(plain) < 2 or plain[0] not in _NAME_START or not _NAME_REST.issuperset(plain):
        raise UsageError(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return plain


def generate_name(taken: set[str]) -> str:
    """A name adjective_surname that is not in taken; a digit is added when the first try is."""
    number = int.from_bytes(os.urandom(8), "big")
    adjective = _ADJECTIVES[number % len(_ADJECTIVES)]
    surname = _SURNAMES[(number >> 16) % len(_SURNAMES)]
    name = f"{adjective}_{surname}"
    digit = 0
    while name in taken:
        digit += 1
        name = f"{adjective}_{surname}{digit}"
    return name


def _from_caller(entry: str) -> str:
    if "=" in entry:
        return entry
    value = os.environ.get(entry)
    # Without a value here, the bare name tells the engine to drop the image's variable of that name.
    return entry if value is None else f"{entry}={value}"


def read_env_file(path: str, *, from_caller: bool = True) -> list[str]:
    """Read an --env-file or --label-file: `NAME=value` a line, `#` starts a comment line.

    Shape:  from_caller: `NAME` alone means the caller's variable of that name, else it is passed over
    Raises: InvalidOption
    Source: docker/cli opts/file.go
    """
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise InvalidOption(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    entries: list[str] = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8").lstrip()
        except UnicodeDecodeError:
            raise InvalidOption(f"env file {path}: invalid utf8 bytes at line {number}") from None
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not name:
            raise InvalidOption(f"poorly formatted environment: no variable name on line '{text}'")
        if any(letter.isspace() for letter in name):
            raise InvalidOption(f"poorly formatted environment: variable '{name}' contains whitespaces")
        if equals:
            entries.append(f"{name}={value}")
        elif from_caller and name in os.environ:
            entries.append(_from_caller(name))
    return entries


def read_env(options_env: list[str], env_files: list[str]) -> list[str]:
    """The environment of the command line: files first, then -e; raises UsageError."""
    entries = [entry for path in env_files for entry in read_env_file(path)]
    for entry in options_env:
        if not entry or entry.startswith("=") or "\0" in entry:
            reason = f"invalid environment variable: {entry}"
            raise InvalidOption(f'invalid argument "{entry}" for "-e, --env" flag: {reason}')
        entries.append(_from_caller(entry))
    return entries


def read_labels(labels: list[str], files: Sequence[str] = ()) -> dict[str, str]:
    """`key=value` or `key` each, those of files first; raises UsageError."""
    result: dict[str, str] = {}
    for label in [*(entry for path in files for entry in read_env_file(path, from_caller=False)), *labels]:
        key, _, value = label.partition("=")
        if not key.strip():
            reason = f"invalid label '{label}': empty name"
            raise InvalidOption(f'invalid argument "{label}" for "-l, --label" flag: {reason}')
        result[key] = value
    return result


def merge_env(image_env: list[str], given: list[str]) -> list[str]:
    """Docker's order: what was given, then those of the image whose names were not given.

    Source: moby daemon/commit.go merge
    """
    names = {entry.partition("=")[0] for entry in given}
    return given + [entry for entry in image_env if entry.partition("=")[0] not in names]
