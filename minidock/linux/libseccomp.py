"""libseccomp: from rules by name to the kernel's program. Loaded only when a filter has to be compiled.

Source: seccomp_rule_add(3), seccomp_export_bpf(3); runc libcontainer/seccomp, which calls it in the same order
"""

from __future__ import annotations

import ctypes
import errno
import os

from minidock.errors import UsageError
from minidock.linux.libc import syscall
from minidock.linux.seccomp import INSTRUCTION_BYTES, MAX_INSTRUCTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Source: linux/seccomp.h; the low 16 bits hold an errno or a tracer's value
ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
CARRIES_VALUE = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
COMPARISONS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_ATTRIBUTE_NO_NEW_PRIVS, _ATTRIBUTE_OPTIMIZE = 3, 8
_BINARY_TREE = 2
_MAX_ARGUMENTS = 6
_X32, _AUDIT_X86_64, _X32_BIT = 0x4000003E, 0xC000003E, 0x40000000

# Classic BPF. Source: linux/bpf_common.h
_LOAD_WORD, _JUMP, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_AT_LEAST, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
_RETURN_ENOSYS = 0x00050000 | errno.ENOSYS


class Condition(ctypes.Structure):
    """A comparison with one argument. Shape: for MASKED_EQ first is the mask, second what must remain"""

    _fields_ = (
        ("index", ctypes.c_uint),
        ("comparison", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class Rule:
    """What happens to these calls. Shape: names; action with its value; conditions, all of which must hold"""

    __slots__ = ("action", "conditions", "names")

    def __init__(self, names: Sequence[str], action: int, conditions: Sequence[Condition] = ()) -> None:
        self.names = list(names)
        self.action = action
        self.conditions = list(conditions)


def _open_library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise UsageError(
            "seccomp: libseccomp.so.2 is not on this host",
            hint="install libseccomp2, or run without a filter: --security-opt seccomp=unconfined",
        ) from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_release.restype = None
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_arch_native.restype = ctypes.c_uint32
    library.seccomp_arch_native.argtypes = ()
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    library.seccomp_rule_add_array.argtypes = (
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
        ctypes.POINTER(Condition),
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return library


def _check(result: int, what: str) -> None:
    if result < 0 and result != -errno.EEXIST:
        raise UsageError(f"seccomp: {what}: {os.strerror(-result).lower()}")


def compile_filter(default: int, architectures: Sequence[str], rules: Sequence[Rule], *, unknown_enosys: bool) -> bytes:
    """A program for seccomp(2).

    Shape:  architectures in libseccomp's words ("x86_64"), none: the machine's own; unknown_enosys: calls with a
            number behind the last one that a rule names are told to be missing, so that a C library falls back to
            an older call rather than failing with EPERM
    Raises: UsageError
    """
    library = _open_library()
    tokens = []
    for word in architectures:
        token = int(library.seccomp_arch_resolve_name(word.encode("ascii", "replace")))
        if token == 0:
            raise UsageError(f"seccomp: unknown architecture {word!r}")
        tokens.append(token)
    context = library.seccomp_init(default)
    if not context:
        raise UsageError(f"seccomp: libseccomp refuses the default action {default:#x}")
    try:
        for token in tokens:
            _check(library.seccomp_arch_add(context, token), "add architecture")
        # whether privileges may grow is the container's own setting
        _check(library.seccomp_attr_set(context, _ATTRIBUTE_NO_NEW_PRIVS, 0), "set attribute")
        # The kernel tries every call when it takes a filter; a library older than 2.5 searches them one by one.
        library.seccomp_attr_set(context, _ATTRIBUTE_OPTIMIZE, _BINARY_TREE)
        for rule in rules:
            if rule.action != default:
                _add(library, context, rule)
        program = _export(library, context)
    finally:
        library.seccomp_release(context)
    if unknown_enosys:
        program = _stub(_last_numbers(library, tokens or [int(library.seccomp_arch_native())], rules)) + program
    if len(program) > MAX_INSTRUCTIONS * INSTRUCTION_BYTES:
        raise UsageError(f"seccomp: the profile makes more than the kernel's {MAX_INSTRUCTIONS} instructions")
    return program


def _add(library: ctypes.CDLL, context: int, rule: Rule) -> None:
    indexes = [condition.index for condition in rule.conditions]
    # two conditions on one argument are alternatives, as runc has it; libseccomp itself refuses them
    alternatives = len(set(indexes)) < len(indexes)
    groups = [[condition] for condition in rule.conditions] if alternatives else [rule.conditions]
    for name in rule.names:
        number = int(library.seccomp_syscall_resolve_name(name.encode("utf-8", "replace")))
        if number == -1:
            # a call that this libseccomp does not know is left to the default, as docker leaves it
            continue
        for group in groups:
            array = (Condition * len(group))(*group) if group else None
            _check(library.seccomp_rule_add_array(context, rule.action, number, len(group), array), name)


def _export(library: ctypes.CDLL, context: int) -> bytes:
    handle = syscall("memfd_create", b"seccomp", 1)
    try:
        _check(library.seccomp_export_bpf(context, handle), "export")
        size_bytes = os.fstat(handle).st_size
        return os.pread(handle, size_bytes, 0)
    finally:
        os.close(handle)


def _last_numbers(library: ctypes.CDLL, tokens: Sequence[int], rules: Sequence[Rule]) -> dict[int, int]:
    """For each architecture the highest number of a call that the rules name."""
    names = {name.encode("utf-8", "replace") for rule in rules for name in rule.names}
    return {
        token: max((int(library.seccomp_syscall_resolve_name_arch(token, name)) for name in names), default=-1)
        for token in tokens
    }


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return code.to_bytes(2, "little") + bytes((if_true, if_false)) + value.to_bytes(4, "little")


def _stub(last: dict[int, int]) -> bytes:
    """Instructions in front of a filter: ENOSYS for numbers behind the last. Source: runc, seccomp/patchbpf"""
    sections = []
    for token, number in last.items():
        if token == _X32 or number < 0:
            continue
        load = _instruction(_LOAD_WORD, _NUMBER_OFFSET)
        if token == _AUDIT_X86_64 and last.get(_X32, -1) >= 0:
            # one audit architecture with two tables, told apart by a bit of the number
            body = load + _instruction(_JUMP_AT_LEAST, _X32_BIT, 0, 2)
            body += _instruction(_JUMP_GREATER, last[_X32] | _X32_BIT, 2, 0) + _instruction(_JUMP, 2)
            body += _instruction(_JUMP_GREATER, number, 0, 1)
        else:
            body = load + _instruction(_JUMP_GREATER, number, 0, 1)
        sections.append((token, body + _instruction(_RETURN, _RETURN_ENOSYS)))
    result = b""
    for token, body in reversed(sections):
        length = len(body) // INSTRUCTION_BYTES
        skip = _instruction(_JUMP, len(result) // INSTRUCTION_BYTES)
        result = _instruction(_JUMP_EQUAL, token, 0, length + 1) + body + skip + result
    return _instruction(_LOAD_WORD, _ARCHITECTURE_OFFSET) + result
