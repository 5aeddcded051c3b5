"""Which seccomp filter a container runs under; compiled once, then read from ROOT/minidock/seccomp/.

A cached program carries its key and a checksum, and is used only when both are right and the file is root's
own and nobody else's to write. A warm start reads one small file; neither the profile nor libseccomp is loaded.
"""

from __future__ import annotations

import os

from minidock.constants import PRIVATE_DIR
from minidock.linux import capabilities
from minidock.linux.libc import MACHINE
from minidock.linux.seccomp import INSTRUCTION_BYTES, MAX_INSTRUCTIONS

UNCONFINED = "unconfined"
DIRECTORY = "minidock/seccomp"

# Names the list in seccomp_profile.py and the way in which libseccomp is asked; count up when either changes.
_REVISION = "2"
_CHECKSUM_BYTES = 32
_OTHERS_MAY_WRITE, _S_IFMT, _S_IFREG = 0o022, 0o170000, 0o100000


def filter_program(root_path: str, profile: str, mask: int, *, privileged: bool) -> bytes:
    """The program for seccomp(2) of a container.

    Shape:   profile: "" the default one, "unconfined", or Docker's JSON; mask: the container's capabilities
    Returns: b"" for no filter
    Raises:  UsageError
    """
    if privileged or profile == UNCONFINED:
        return b""
    key = cache_key(profile, mask)
    directory = f"{root_path}/{DIRECTORY}"
    program = read_cached(directory, key)
    if program is None:
        program = _compile(profile, mask)
        # A root without our own directory is one on which dockerd is at work: there nothing is left behind.
        if os.path.isdir(f"{root_path}/{PRIVATE_DIR}"):
            _write_cached(directory, key, program)
    return program


def cache_key(profile: str, mask: int) -> bytes:
    """All that the program depends on, in one line."""
    name = _checksum(profile.encode("utf-8", "surrogateescape")).hex() if profile else "default"
    return f"minidock-seccomp {_REVISION} {name} {mask:x} {MACHINE} {os.uname().release}\n".encode("utf-8", "replace")


def _checksum(data: bytes) -> bytes:
    import _blake2

    return bytes(_blake2.blake2b(data, digest_size=_CHECKSUM_BYTES).digest())


def _path(directory: str, key: bytes) -> str:
    return f"{directory}/{_checksum(key).hex()}"


def read_cached(directory: str, key: bytes) -> bytes | None:
    """A program that was cached under this key, None when there is none that can be trusted."""
    limit_bytes = len(key) + _CHECKSUM_BYTES + MAX_INSTRUCTIONS * INSTRUCTION_BYTES
    try:
        handle = os.open(_path(directory, key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(handle)
        if status.st_mode & _S_IFMT != _S_IFREG or status.st_mode & _OTHERS_MAY_WRITE or status.st_uid != os.geteuid():
            return None
        data = os.read(handle, limit_bytes + 1)
    finally:
        os.close(handle)
    program = data[len(key) + _CHECKSUM_BYTES :]
    if len(data) > limit_bytes or len(program) % INSTRUCTION_BYTES:
        return None
    return program if data == _framed(key, program) else None


def _framed(key: bytes, program: bytes) -> bytes:
    return key + _checksum(key + program) + program


def _write_cached(directory: str, key: bytes, program: bytes) -> None:
    """Keep a program; a root without room for it just compiles again."""
    path = _path(directory, key)
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, _framed(key, program))
        finally:
            os.close(handle)
        os.rename(temporary, path)
    except OSError:
        return


def _compile(profile: str, mask: int) -> bytes:
    from minidock.runtime.seccomp_profile import compile_default, compile_profile

    names = [name for number, name in enumerate(capabilities.NAMES) if mask >> number & 1]
    if not profile:
        return compile_default(names)
    return compile_profile(profile.encode("utf-8", "surrogateescape"), names)
