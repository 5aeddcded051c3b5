"""`--security-opt`: what is asked of seccomp, AppArmor and new privileges, as hostconfig.json keeps it.

Source: moby daemon/daemon_unix.go, parseSecurityOpt; docker/cli cli/command/container/opts.go, parseSecurityOpts
"""

from __future__ import annotations

from minidock.errors import InvalidOption, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
MAX_PROFILE_BYTES = 4 << 20


class SecurityOptions:
    """What the options come to. Shape: seccomp: "", "unconfined" or a JSON profile; apparmor: "" or a profile's name"""

    __slots__ = ("apparmor", "no_new_privileges", "seccomp")

    def __init__(self) -> None:
        self.seccomp = ""
        self.apparmor = ""
        self.no_new_privileges = False


def parse_security_options(options: Sequence[str]) -> SecurityOptions:
    """Read the entries of SecurityOpt; raises UsageError with docker's words."""
    result = SecurityOptions()
    for option in options:
        if option == "no-new-privileges":
            result.no_new_privileges = True
            continue
        if option == "disable":
            continue
        name, separator, value = option.partition("=" if "=" in option else ":")
        if not separator:
            raise UsageError(f'invalid --security-opt 1: "{option}"')
        if name == "seccomp":
            result.seccomp = value
        elif name == "apparmor":
            result.apparmor = value
        elif name == "no-new-privileges" and value in _TRUE + _FALSE:
            result.no_new_privileges = value in _TRUE
        elif name != "label":
            raise UsageError(f'invalid --security-opt 2: "{option}"')
    return result


def read_security_options(words: Sequence[str]) -> list[str]:
    """The options of a command line as hostconfig.json keeps them: a seccomp profile's text in place of its path.

    Raises: UsageError with docker's words
    """
    result = []
    for word in words:
        name, separator, value = word.partition("=" if "=" in word else ":")
        if not separator and name != "no-new-privileges":
            raise InvalidOption(f'Invalid --security-opt: "{word}"')
        if name == "seccomp" and value != "unconfined":
            word = "seccomp=" + _compact(value)
        result.append(word)
    parse_security_options(result)
    return result


def _compact(path: str) -> str:
    from minidock.formats.gojson import encode_json, parse_json

    try:
        with open(path, "rb") as file:
            text = file.read(MAX_PROFILE_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise InvalidOption(f"opening seccomp profile ({path}) failed: open {path}: {reason}") from None
    document = parse_json(text, what=f"the seccomp profile {path}", limit_bytes=MAX_PROFILE_BYTES)
    return encode_json(document).decode("utf-8").rstrip("\n")
