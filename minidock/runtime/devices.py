"""/dev as docker fills it, and the list of devices a container may use, for cgroup v1 and v2.

Source: runc libcontainer/specconv AllowedDevices and devices.list of a container of docker 20.10
"""

from __future__ import annotations

import errno
import fcntl
import os

from minidock.errors import InvalidOption, SyscallError, UsageError
from minidock.linux import cdata
from minidock.linux.libc import syscall
from minidock.linux.mount import MS_BIND, mount, shell_word
from minidock.linux.paths import open_in_root
from minidock.runtime.operation import NO_LINKS, Operation, Setup, filesystem_magic, make_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.runtime.cgroup import Cgroup
    from minidock.trace import Trace

# name, major, minor; all character devices of mode 0666
NODES = (
    (b"null", 1, 3),
    (b"zero", 1, 5),
    (b"full", 1, 7),
    (b"random", 1, 8),
    (b"urandom", 1, 9),
    (b"tty", 5, 0),
)
LINKS = (
    (b"/proc/self/fd", b"fd"),
    (b"/proc/self/fd/0", b"stdin"),
    (b"/proc/self/fd/1", b"stdout"),
    (b"/proc/self/fd/2", b"stderr"),
    (b"pts/ptmx", b"ptmx"),
)
_S_IFCHR, _S_IFBLK, _S_IFMT = 0o020000, 0o060000, 0o170000

# type, major, minor (-1 any), access: mknod of everything, use of the harmless ones, the terminals, and tun
ALLOWED = (
    ("c", -1, -1, "m"),
    ("b", -1, -1, "m"),
    *(("c", major, minor, "rwm") for _, major, minor in NODES),
    ("c", 5, 1, "rwm"),
    ("c", 5, 2, "rwm"),
    ("c", 136, -1, "rwm"),
    ("c", 10, 200, "rwm"),
)

_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441
DEVPTS_SUPER_MAGIC = 0x1CD1
_SKIPPED = frozenset(("pts", "shm", "fd", "mqueue", "console", ".udev"))


class HostDevice:
    """A device node of the host. Shape: name below /dev, or an absolute path elsewhere; mode with the type's bits"""

    __slots__ = ("gid", "mode", "name", "rdev", "uid")

    def __init__(self, name: str, status: os.stat_result) -> None:
        self.name = name
        self.mode = status.st_mode
        self.rdev = status.st_rdev
        self.uid = status.st_uid
        self.gid = status.st_gid

    def describe(self) -> str:
        """The shell line that makes this node."""
        place = os.path.join("/dev", self.name)
        path = shell_word(place)
        kind = "b" if self.mode & _S_IFMT == _S_IFBLK else "c"
        made = f"mknod -m {self.mode & 0o7777:o} {path} {kind} {os.major(self.rdev)} {os.minor(self.rdev)}"
        folder = f"mkdir -p {shell_word(os.path.dirname(place))} && " if "/" in self.name else ""
        return f"{folder}{made} && chown {self.uid}:{self.gid} {path}"


def host_devices(directory: str = "/dev", prefix: str = "") -> list[HostDevice]:
    """The host's device nodes as runc collects them for a privileged container."""
    found: list[HostDevice] = []
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return found
    for entry in entries:
        if entry.name in _SKIPPED or entry.name.startswith((".lxc", ".lxd")):
            continue
        if entry.is_dir(follow_symlinks=False):
            found += host_devices(entry.path, f"{prefix}{entry.name}/")
            continue
        status = entry.stat(follow_symlinks=False)
        if status.st_mode & _S_IFMT in (_S_IFCHR, _S_IFBLK):
            found.append(HostDevice(prefix + entry.name, status))
    return found


class MakeDevices(Operation):
    """Make the nodes and links of /dev, relative to the fresh tmpfs there."""

    __slots__ = ("extra", "owner")
    kind = "make"

    def __init__(self, extra: Sequence[HostDevice], owner: tuple[int, int] | None = None) -> None:
        """Shape: owner: whose the extra nodes are, None for the host's own owners"""
        self.owner = owner
        self.extra = [device for device in extra if (os.fsencode(device.name)) not in {node[0] for node in NODES}]

    def describe(self) -> str:
        nodes = [f"mknod -m 666 /dev/{os.fsdecode(name)} c {major} {minor}" for name, major, minor in NODES]
        taken = {os.fsencode(device.name) for device in self.extra}
        links = [f"ln -s {os.fsdecode(target)} /dev/{os.fsdecode(name)}" for target, name in LINKS if name not in taken]
        return "\n".join([*nodes, *(device.describe() for device in self.extra), *links])

    def execute(self, setup: Setup) -> None:
        handle = open_in_root(setup.root_fd, b"dev", os.O_PATH | os.O_DIRECTORY, resolve=NO_LINKS)
        os.fchdir(handle)
        os.close(handle)
        self.make_here()

    def make_here(self) -> None:
        """Make them in the working directory; raises OSError."""
        for name, major, minor in NODES:
            os.mknod(name, _S_IFCHR | 0o666, os.makedev(major, minor))
        for device in self.extra:
            _make_folders(device.name)
            try:
                os.mknod(device.name, device.mode, device.rdev)
                os.chown(device.name, *(self.owner or (device.uid, device.gid)))
            except FileExistsError:
                continue
            except OSError as error:
                raise SyscallError(f"mknod {os.path.join('/dev', device.name)}", error.errno or 5) from None
        for target, name in LINKS:
            try:
                os.symlink(target, name)
            except FileExistsError:
                continue


def _make_folders(name: str) -> None:
    """The directories above a device; os.makedirs would make all but the last with whatever mode the umask leaves."""
    parts = name.split("/")[:-1]
    for depth in range(name.startswith("/"), len(parts)):
        try:
            os.mkdir("/".join(parts[: depth + 1]), 0o755)
        except FileExistsError:
            continue


def open_terminal(root_fd: int) -> tuple[int, int]:
    """A new pseudo terminal of the container's own devpts.

    Returns: (master, slave), both close-on-exec
    Raises:  UsageError when /dev/pts is something else than a devpts; SyscallError
    """
    master = open_in_root(root_fd, b"dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY, resolve=NO_LINKS)
    if filesystem_magic(master) != DEVPTS_SUPER_MAGIC or os.fstat(master).st_rdev != os.makedev(5, 2):
        raise UsageError("the container's /dev/pts is no devpts")
    fcntl.ioctl(master, _TIOCSPTLCK, bytes(4))
    # the peer by descriptor: its name could be bent by the container
    slave: int = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    return master, slave


class OpenConsole(Operation):
    """Make the terminal of `-t`, hand its master to the parent and bind its slave to /dev/console."""

    __slots__ = ()

    def describe(self) -> str:
        return "# open(/dev/pts/ptmx), ioctl(TIOCGPTPEER); mount --bind of the terminal on /dev/console"

    def execute(self, setup: Setup) -> None:
        master, slave = open_terminal(setup.root_fd)
        setup.send_console(master)
        os.close(master)
        target = make_in_root(setup.root_fd, b"/dev/console", is_directory=False)
        mount(setup.name_of(slave), setup.name_of(target), None, MS_BIND)
        os.close(target)
        setup.console_fd = slave


def restrict(
    group: Cgroup,
    *,
    privileged: bool,
    extra: Sequence[tuple[str, int, int, str]] = (),
    trace: Trace | None = None,
) -> None:
    """Let the processes of a group use docker's default devices and extra ones, on whatever hierarchy can tell.

    A host that does not let us say so, as inside another container, keeps what it imposes itself.
    """
    if privileged:
        return
    allowed = (*ALLOWED, *extra)
    v1 = group.path_of("devices")
    if trace and v1 is not None:
        trace("cgroup", f"echo a > {v1}/devices.deny")
        for kind, major, minor, access in allowed:
            trace("cgroup", f"echo '{kind} {_spell(major)}:{_spell(minor)} {access}' > {v1}/devices.allow")
    if v1 is not None:
        try:
            _restrict_v1(v1, allowed)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS):
                raise
    elif group.v2_path is not None:
        if trace:
            rules = ", ".join(
                f"{kind} {_spell(major)}:{_spell(minor)} {access}" for kind, major, minor, access in allowed
            )
            trace("cgroup", f"# bpf(BPF_PROG_ATTACH) to {group.v2_path}, which allows {rules}")
        try:
            _restrict_v2(group.v2_path, allowed)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS):
                raise


def device_rule(text: str) -> list[tuple[str, int, int, str]]:
    """`c 1:3 rwm` as the rules of a control group, -1 for `*`; `a` is for both kinds. Raises UsageError.

    Source: docker/cli cli/command/container/opts.go, deviceCgroupRuleRegexp
    """
    words = text.split(" ")
    numbers = words[1].split(":") if len(words) == 3 else []
    if (
        len(numbers) != 2
        or words[0] not in ("a", "b", "c")
        or not all(
            number == "*" or (number.isascii() and number.isdecimal() and len(number) < 10) for number in numbers
        )
        or not (words[2] and len(words[2]) <= 3 and set("rwm").issuperset(words[2]))
    ):
        raise InvalidOption(
            f'invalid argument "{text}" for "--device-cgroup-rule" flag: invalid device cgroup format \'{text}\''
        )
    major, minor = (-1 if number == "*" else int(number) for number in numbers)
    return [(kind, major, minor, words[2]) for kind in ("bc" if words[0] == "a" else words[0])]


def _spell(number: int) -> str:
    return "*" if number < 0 else str(number)


def _restrict_v1(path: str, allowed: Sequence[tuple[str, int, int, str]]) -> None:
    deny = os.open(path + "/devices.deny", os.O_WRONLY | os.O_CLOEXEC)
    allow = os.open(path + "/devices.allow", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(deny, b"a")
        for kind, major, minor, access in allowed:
            os.write(allow, f"{kind} {_spell(major)}:{_spell(minor)} {access}".encode("ascii"))
    finally:
        os.close(deny)
        os.close(allow)


# eBPF, enough for a list of comparisons. Source: kernel Documentation/bpf/standardization/instruction-set.rst
_BPF_PROG_LOAD, _BPF_PROG_ATTACH = 5, 8
_PROG_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _F_ALLOW_MULTI = 15, 6, 2
_LOAD_WORD, _MOVE_REGISTER, _MOVE, _AND, _SHIFT_RIGHT = 0x61, 0xBC, 0xB4, 0x54, 0x74
_JUMP_NOT_EQUAL, _JUMP_NOT_EQUAL_REGISTER, _EXIT = 0x56, 0x5E, 0x95
_DEVICE_TYPE = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return (
        bytes((code, source << 4 | target)) + offset.to_bytes(2, "little") + (value & 0xFFFFFFFF).to_bytes(4, "little")
    )


def device_program(allowed: Sequence[tuple[str, int, int, str]] = ALLOWED) -> bytes:
    """An eBPF program of type cgroup_device that allows exactly these.

    Source: linux/bpf.h, struct bpf_cgroup_dev_ctx: access_type (access << 16 | type), major, minor
    """
    code = [
        _instruction(_LOAD_WORD, 2, 1, 0),
        _instruction(_MOVE_REGISTER, 3, 2),
        _instruction(_SHIFT_RIGHT, 3, value=16),
        _instruction(_AND, 2, value=0xFFFF),
        _instruction(_LOAD_WORD, 4, 1, 4),
        _instruction(_LOAD_WORD, 5, 1, 8),
    ]
    for kind, major, minor, access in allowed:
        tests = [(_JUMP_NOT_EQUAL, 2, _DEVICE_TYPE[kind])]
        tests += [(_JUMP_NOT_EQUAL, register, number) for register, number in ((4, major), (5, minor)) if number >= 0]
        bits = sum(_ACCESS[letter] for letter in access)
        body: list[bytes] = []
        if bits != 7:
            # every bit asked for must be an allowed one
            body += [
                _instruction(_MOVE_REGISTER, 1, 3),
                _instruction(_AND, 1, value=bits),
                _instruction(_JUMP_NOT_EQUAL_REGISTER, 1, 3, 2),
            ]
        body += [_instruction(_MOVE, 0, value=1), _instruction(_EXIT)]
        for number, (jump, register, value) in enumerate(tests):
            code.append(_instruction(jump, register, 0, len(tests) - 1 - number + len(body), value))
        code += body
    return b"".join([*code, _instruction(_MOVE, 0, value=0), _instruction(_EXIT)])


def _restrict_v2(path: str, allowed: Sequence[tuple[str, int, int, str]]) -> None:
    program = device_program(allowed)
    instructions = cdata.create_string_buffer(program, len(program))
    licence = cdata.create_string_buffer(b"GPL")
    load = bytearray(128)
    for offset, size, value in (
        (0, 4, _PROG_TYPE_CGROUP_DEVICE),
        (4, 4, len(program) // 8),
        (8, 8, cdata.addressof(instructions)),
        (16, 8, cdata.addressof(licence)),
    ):
        load[offset : offset + size] = value.to_bytes(size, "little")
    handle = syscall("bpf", _BPF_PROG_LOAD, cdata.create_string_buffer(bytes(load), 128), 128)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        words = (directory, handle, _ATTACH_CGROUP_DEVICE, _F_ALLOW_MULTI)
        attach = cdata.create_string_buffer(b"".join(word.to_bytes(4, "little") for word in words), 128)
        syscall("bpf", _BPF_PROG_ATTACH, attach, 128)
    except SyscallError as error:
        if error.errno != errno.EBADF:
            raise
    finally:
        os.close(directory)
        os.close(handle)
