"""Seccomp filters: the default profile played through a BPF machine, Docker's JSON, and the cache."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import UsageError
from minidock.formats.gojson import encode_json
from minidock.linux.capabilities import DEFAULT, NAMES
from minidock.linux.libc import MACHINE
from minidock.runtime import seccomp
from minidock.runtime.seccomp_profile import ALLOWED, WITH_CAPABILITY, compile_default, compile_profile, default_rules
from minidock.runtime.securityopt import parse_security_options, read_security_options

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
DEFAULT_NAMES = [name for number, name in enumerate(NAMES) if DEFAULT >> number & 1]
pytestmark = pytest.mark.skipif(MACHINE != "x86_64", reason="numbers of x86-64")


def play(program: bytes, number: int, *arguments: int, architecture: int = X86_64) -> int:
    """What a filter returns for a call."""
    return walk(program, number, *arguments, architecture=architecture)[0]


def walk(program: bytes, number: int, *arguments: int, architecture: int = X86_64) -> tuple[int, int]:
    """What a filter returns for a call, and after how many steps. Source: kernel Documentation/networking/filter.rst"""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(*arguments, *(0,) * 6)[:6])
    code = [struct.unpack_from("<HBBI", program, start) for start in range(0, len(program), 8)]
    accumulator, place, steps = 0, 0, 0
    while True:
        steps += 1
        operation, if_true, if_false, value = code[place]
        place += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x06:
            return int(value), steps
        elif operation == 0x05:
            place += value
        elif operation == 0x54:
            accumulator &= value
        else:
            met = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[operation]
            place += if_true if met else if_false


@pytest.fixture(scope="module")
def program() -> bytes:
    return compile_default(DEFAULT_NAMES)


@pytest.mark.parametrize(
    ("number", "arguments", "result"),
    [
        (0, (), ALLOW),  # read
        (101, (), ALLOW),  # ptrace
        (161, (), ALLOW),  # chroot, for SYS_CHROOT
        (165, (), EPERM),  # mount
        (250, (), EPERM),  # keyctl
        (435, (), ENOSYS),  # clone3
        (56, (0x11,), ALLOW),  # clone as fork does
        (56, (0x10000011,), EPERM),  # clone with CLONE_NEWUSER
        (135, (0xFFFFFFFF,), ALLOW),  # personality, the question
        (135, (0x0040000,), EPERM),  # personality with ADDR_NO_RANDOMIZE
        (449, (), ALLOW),  # futex_waitv, the last that the profile names
        (450, (), ENOSYS),
        (5000, (), ENOSYS),
        (0x40000000 | 39, (), ALLOW),  # getpid of x32
        (0x40000000 | 5000, (), ENOSYS),
    ],
)
def test_default_profile(program: bytes, number: int, arguments: tuple[int, ...], result: int) -> None:
    assert play(program, number, *arguments) == result


def test_no_call_is_far_to_find(program: bytes) -> None:
    assert max(walk(program, number)[1] for number in range(500)) < 100


def test_other_architectures(program: bytes) -> None:
    assert play(program, 20, architecture=I386) == ALLOW  # getpid
    assert play(program, 21, architecture=I386) == EPERM  # mount
    assert play(program, 5000, architecture=I386) == ENOSYS
    assert play(program, 0, architecture=0xC00000B7) not in (ALLOW, EPERM, ENOSYS)  # aarch64: killed


def test_capabilities_open_their_calls() -> None:
    with_admin = compile_default([*DEFAULT_NAMES, "SYS_ADMIN"])
    assert [play(with_admin, number) for number in (165, 435)] == [ALLOW, ALLOW]
    assert play(with_admin, 56, 0x10000011) == ALLOW
    without_chroot = compile_default([name for name in DEFAULT_NAMES if name != "SYS_CHROOT"])
    assert play(without_chroot, 161) == EPERM
    for capability, names in WITH_CAPABILITY.items():
        plain = {name for rule in default_rules([], "x86_64", (6, 1)) for name in rule.names}
        more = {name for rule in default_rules([capability], "x86_64", (6, 1)) for name in rule.names}
        assert more - plain == set(names) - plain
        assert capability in NAMES


def test_ptrace_waits_for_a_kernel_that_filters_it() -> None:
    old = {name for rule in default_rules([], "x86_64", (4, 7)) for name in rule.names}
    assert "ptrace" not in old
    assert len(set(ALLOWED)) == len(ALLOWED)


def compiled(document: dict[str, Any], *capabilities: str) -> bytes:
    return compile_profile(encode_json(document), capabilities)


def test_json_profiles() -> None:
    deny = compiled(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
                {"name": "chmod", "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_FOWNER"]}},
                {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["arm64"]}},
                {"names": ["unlink"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "99.0"}},
                {
                    "names": ["kill"],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [
                        {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"},
                        {"index": 1, "value": 15, "op": "SCMP_CMP_EQ"},
                    ],
                },
            ],
        }
    )
    assert play(deny, 83) == 0x50000 | 28
    assert play(deny, 90) == EPERM
    assert [play(deny, number) for number in (84, 87, 5000)] == [ALLOW] * 3
    assert [play(deny, 62, 1, signal) for signal in (9, 15, 1)] == [EPERM, EPERM, ALLOW]
    spared = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "chmod", "action": "SCMP_ACT_ERRNO"}]}
    spared["syscalls"][0]["excludes"] = {"caps": ["CAP_FOWNER"]}  # type: ignore[index]
    assert play(compiled(spared, "FOWNER"), 90) == ALLOW
    assert compiled({}) == b""


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"defaultAction": "SCMP_ACT_NOPE"}, "invalid action"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": 1}, "not a list"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NOPE"]}, "unknown architecture"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"], "action": "x"}]},
            "use either 'name' or 'names'",
        ),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"name": "kill", "action": "SCMP_ACT_ERRNO", "args": [{"index": 9, "op": "SCMP_CMP_EQ"}]}],
            },
            "invalid argument",
        ),
    ],
)
def test_bad_profiles(document: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compiled(document)


def test_cache(scratch: Path) -> None:
    (scratch / "minidock").mkdir()
    first = seccomp.filter_program(str(scratch), "", DEFAULT, privileged=False)
    assert first == compile_default(DEFAULT_NAMES)
    directory = scratch / seccomp.DIRECTORY
    (file,) = directory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    key = seccomp.cache_key("", DEFAULT)
    good = file.read_bytes()
    assert seccomp.read_cached(str(directory), key) == first
    assert seccomp.read_cached(str(directory), seccomp.cache_key("", 0)) is None
    for damaged in (good[:-8], good[:-1], good[:-1] + b"\1", b"", good.replace(b"default", b"defauld")):
        file.write_bytes(damaged)
        assert seccomp.read_cached(str(directory), key) is None
        assert seccomp.filter_program(str(scratch), "", DEFAULT, privileged=False) == first
        assert file.read_bytes() == good
    file.chmod(0o622)
    assert seccomp.read_cached(str(directory), key) is None
    file.chmod(0o600)
    file.rename(directory / "real")
    file.symlink_to("real")
    assert seccomp.read_cached(str(directory), key) is None


def test_a_cache_that_cannot_be_written_is_no_fault(scratch: Path) -> None:
    (scratch / "minidock").write_text("a file in its place")
    assert seccomp.filter_program(str(scratch), "", DEFAULT, privileged=False)
    assert os.listdir(scratch) == ["minidock"]


def test_unconfined_and_privileged_have_none() -> None:
    assert seccomp.filter_program("/nowhere", "unconfined", DEFAULT, privileged=False) == b""
    assert seccomp.filter_program("/nowhere", "", DEFAULT, privileged=True) == b""


def test_security_options(scratch: Path) -> None:
    profile = scratch / "profile.json"
    profile.write_text('{ "defaultAction" : "SCMP_ACT_ALLOW" }\n')
    kept = read_security_options([f"seccomp={profile}", "no-new-privileges:true", "label=disable", "apparmor=x"])
    assert kept[0] == 'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}'
    options = parse_security_options(kept)
    assert (options.seccomp, options.no_new_privileges, options.apparmor) == (kept[0][8:], True, "x")
    assert not parse_security_options(["no-new-privileges", "no-new-privileges=false"]).no_new_privileges
    for word in ("bogus", "bogus=1", "no-new-privileges=perhaps", "seccomp=/nonex"):
        with pytest.raises(UsageError):
            read_security_options([word])
