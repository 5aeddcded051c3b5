"""Every error that minidock raises, and the exit status each ends with.

    MinidockError                      1
    ├── UsageError                   125   the caller's words make no sense
    │   └── InvalidOption            125   … to docker's client already
    ├── NotFound                     125
    │   ├── NoSuchImage
    │   ├── NoSuchContainer
    │   ├── NoSuchVolume
    │   ├── NoSuchNetwork
    │   └── NoSuchLayer
    ├── Conflict                     125   the store's state forbids it
    │   ├── NameInUse
    │   ├── ContainerRunning
    │   ├── ContainerNotRunning
    │   └── ImageInUse
    ├── InvalidReference             125
    ├── FormatError                  125   bytes from outside are not what they claim
    │   ├── BadArchive
    │   ├── BadManifest
    │   ├── BadConfig
    │   ├── UnsafePath
    │   └── DigestMismatch
    ├── StoreError                   125   the data root itself
    │   ├── StoreBusy
    │   ├── StoreCorrupt
    │   ├── PartialUpper
    │   └── MaxDepthExceeded
    ├── SyscallError (also OSError)  125   the kernel said no
    └── CommandError                 126, 127, n, 128+signal

`exit_code` is what `run` ends with; docker ends every other verb's failure with 1, but for an option's value that its
client refuses before it asks the engine, and `__main__` maps that (docker's `docker run` reference, "Exit status").
Library code raises these and nothing else on bad input; what fails while cleaning up becomes a note on
the first error and never hides it.
"""

from __future__ import annotations

import errno as _errno
import os


class MinidockError(Exception):
    """An error with one clear line: what, why, and how to mend it.

    Shape: message: one line without newline; hint: the mend, may be empty
    """

    exit_code = 125
    default_hint = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(MinidockError):
    """The command line or the arguments of a call contradict themselves."""


class InvalidOption(UsageError):
    """The value of an option is none; docker's client finds that out by itself and ends with 125 whatever the verb."""


class NotFound(MinidockError):
    """A thing named by the caller does not exist in this data root."""


class NoSuchImage(NotFound):
    """No image has this reference or ID."""

    default_hint = "minidock images lists what there is"


class NoSuchContainer(NotFound):
    """No container has this name or ID."""

    default_hint = "minidock ps -a lists what there is"


class NoSuchVolume(NotFound):
    """No volume has this name."""

    default_hint = "minidock volume ls lists what there is"


class NoSuchNetwork(NotFound):
    """No network has this name or ID."""

    default_hint = "minidock network ls lists what there is"


class NoSuchLayer(NotFound):
    """layerdb has no entry for a chain ID."""


class Conflict(MinidockError):
    """The operation contradicts the present state of the store."""


class NameInUse(Conflict):
    """Another container has this name."""

    @classmethod
    def of(cls, name: str, container_id: str, before: str = "") -> NameInUse:
        """The error in docker's words, with some before them."""
        return cls(
            f'{before}Conflict. The container name "/{name}" is already in use by container "{container_id}". You have '
            "to remove (or rename) that container to be able to reuse that name."
        )


class ContainerRunning(Conflict):
    """The operation needs a stopped container."""


class ContainerNotRunning(Conflict):
    """The operation needs a running container."""


class ImageInUse(Conflict):
    """A container, a tag or a child image needs this image."""


class InvalidReference(MinidockError):
    """A name is not a reference by the grammar of the distribution project."""


class FormatError(MinidockError):
    """Bytes from outside are not what they claim to be."""


class BadArchive(FormatError):
    """An image archive or a layer tar is truncated, corrupt or of an unknown kind."""


class BadManifest(FormatError):
    """manifest.json, index.json or a manifest blob cannot be used."""


class BadConfig(FormatError):
    """An image config cannot be used."""


class UnsafePath(FormatError):
    """A name in an archive would leave its root."""


class DigestMismatch(FormatError):
    """Bytes do not hash to the digest that names them."""

    def __init__(self, what: str, *, expected: str, actual: str, hint: str = "") -> None:
        super().__init__(
            f"{what}: expected {expected}, got {actual}", hint=hint or "the archive is damaged or was tampered with"
        )
        self.what = what
        self.expected = expected
        self.actual = actual


class StoreError(MinidockError):
    """The data root cannot be used as asked."""


class StoreBusy(StoreError):
    """Another engine holds the data root."""


class StoreCorrupt(StoreError):
    """A record of the data root is missing or malformed."""


class PartialUpper(StoreError):
    """An upper directory points into the layers below, so it does not tell by itself what changed."""


class MaxDepthExceeded(StoreError):
    """More layers than Docker's engine and the mount page allow."""


_HINTS = {
    _errno.EPERM: "needs root rights",
    _errno.EACCES: "needs root rights",
    _errno.ENOSYS: "this kernel is too old",
    _errno.ENODEV: "the kernel lacks this file system",
    _errno.ENOSPC: "free some space and run the command again",
    _errno.EDQUOT: "the quota is used up",
    _errno.EBUSY: "something still uses it",
}


class SyscallError(MinidockError, OSError):
    """A system call failed.

    Shape: call: the call as one would write it, with its arguments; errno_value: the errno
    """

    def __init__(self, call: str, errno_value: int, *, hint: str = "") -> None:
        MinidockError.__init__(self, f"{call}: {os.strerror(errno_value)}", hint=hint or _HINTS.get(errno_value, ""))
        self.call = call
        self.errno = errno_value
        self.strerror = os.strerror(errno_value)


class CommandError(MinidockError):
    """The container's command could not be executed (126, 127) or ended with a status that is not 0."""

    def __init__(self, message: str, *, exit_code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
