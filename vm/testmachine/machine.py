"""One run of the machine: a source tree and a command in; output, status and artifacts out, without any network.

QEMU's disks: the root image (writes are thrown away), the source tree as a bare tar, a sparse file for artifacts. Two
virtio ports carry the command's output, as it comes, and its status. The console is kept and shown only when no status
came. As root or as an ordinary user alike.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from pathlib import Path

from testmachine.cache import PROJECT, MachineError, need, say

ARTIFACTS_BYTES = 512 << 20
LEFT_OUT = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".hypothesis", ".pytest_cache", ".vagrant"}
CGROUP_WORDS = {
    "v2": "",
    "hybrid": "systemd.unified_cgroup_hierarchy=0",
    "v1": "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1",
}


class Machine:
    """How one machine is made up.

    Units:   memory_mib in MiB; timeout_s in seconds, for the whole run; None for any time
    """

    def __init__(
        self,
        image: Path,
        kit: Path,
        *,
        quick: bool = False,
        cgroup: str = "v2",
        cpus: int = 1,
        memory_mib: int = 2048,
        timeout_s: int | None = None,
    ) -> None:
        if quick and cgroup != "v2":
            raise MachineError("a quick machine has cgroup v2 only")
        if cgroup not in CGROUP_WORDS:
            raise MachineError(f"no cgroup mode {cgroup!r}; there are {', '.join(CGROUP_WORDS)}")
        self.image = image
        self.kit = kit
        self.quick = quick
        self.cgroup = cgroup
        self.cpus = cpus
        self.memory_mib = memory_mib
        self.timeout_s = timeout_s


def accelerator() -> list[str]:
    """KVM where the processor really has it and we may use it, else emulation by QEMU itself.

    A /dev/kvm without the processor's own support (nested, paravirtual) opens and then hangs in the boot: it does not
    count. $VM_ACCEL overrides.
    """
    chosen = os.environ.get("VM_ACCEL")
    if not chosen:
        flags = Path("/proc/cpuinfo").read_text().split()
        is_real = ("vmx" in flags or "svm" in flags) and os.access("/dev/kvm", os.R_OK | os.W_OK)
        chosen = "kvm" if is_real else "tcg,thread=multi,tb-size=512"
    return ["-accel", chosen, "-cpu", "host" if chosen.startswith("kvm") else "max"]


def pack_source(target: Path, command: str) -> None:
    """Write the source tree and the command as one tar, padded so that it can be a disk.

    Shape:   everything below the project's root but repositories, environments and caches
    """

    def chosen(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = Path(member.name).parts
        if LEFT_OUT & set(parts) or parts[:2] == ("vm", "cache") or parts[-1:] and parts[-1].endswith(".egg-info"):
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    with tempfile.NamedTemporaryFile("w", prefix="vm-command-") as script, tarfile.open(target, "w") as tar:
        for entry in sorted(PROJECT.iterdir()):
            tar.add(entry, entry.name, filter=chosen)
        script.write(command)
        script.flush()
        tar.add(script.name, ".vm-command", filter=chosen)
    size = target.stat().st_size
    os.truncate(target, -(-size // 4096) * 4096)


def run(machine: Machine, command: str, artifacts: Path | None, output: int = 1) -> int:
    """Boot the machine, run the command in /src, and wait for its end.

    Shape:   command — shell text; artifacts — where the files that it leaves in $VM_OUT go; output — a descriptor
    Returns: the command's exit status
    Raises:  MachineError when no status came: the machine did not boot, broke down or took too long
    """
    qemu = os.environ.get("QEMU", "qemu-system-x86_64")
    need([f"{qemu} (qemu-system-x86)", "tar"])
    with tempfile.TemporaryDirectory(prefix="vm-", dir=os.environ.get("TMPDIR", "/var/tmp")) as scratch:
        place = Path(scratch)
        pack_source(place / "source.tar", command)
        with open(place / "artifacts", "wb") as file:
            file.truncate(ARTIFACTS_BYTES)
        (place / "status").touch()
        ended = _boot(qemu, machine, place, output)
        status = (place / "status").read_text().strip()
        if not status.isdigit():
            raise MachineError(f"{ended}; its console ended with\n{_tail(place / 'console')}")
        if artifacts is not None:
            _unpack_artifacts(place / "artifacts", artifacts)
        return int(status)


_RUNNING: set[subprocess.Popen[bytes]] = set()


def end_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into an exception, after ending every QEMU that is running: none outlives its runner."""

    def end(number: int, _: object) -> None:
        for process in list(_RUNNING):
            process.kill()
        raise MachineError(f"ended by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def _boot(qemu: str, machine: Machine, place: Path, output: int) -> str:
    """Run QEMU to its end and say how that was; whatever ends us ends QEMU first."""
    # A chardev of its own on our standard output: QEMU's stdio one stops for ever where standard input is at its end.
    passed = os.dup(output)
    try:
        process = subprocess.Popen(
            [qemu, *_words(machine, place, passed)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(place / "qemu", "wb"),
            pass_fds=[passed],
        )
    finally:
        os.close(passed)
    _RUNNING.add(process)
    try:
        code = process.wait(machine.timeout_s)
    except subprocess.TimeoutExpired:
        return f"the machine did not end within {machine.timeout_s} s"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        _RUNNING.discard(process)
    said = (place / "qemu").read_text(errors="replace").strip()
    return f"QEMU ended with {code}: {said[-500:]}" if code else "the machine ended without a status"


def _words(machine: Machine, place: Path, output: int) -> list[str]:
    kernel = ["console=ttyS0 root=/dev/vda rw panic=-1 net.ifnames=0 quiet random.trust_cpu=on"]
    if machine.quick:
        kernel.append("init=/usr/lib/minidock-vm/quick.sh")
    else:
        kernel += ["systemd.unit=vm-job.target systemd.show_status=0", CGROUP_WORDS[machine.cgroup]]
    disks = [f"file={machine.image},snapshot=on", f"file={place / 'source.tar'},readonly=on"]
    disks.append(f"file={place / 'artifacts'}")
    words = ["-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", *accelerator()]
    words += ["-smp", str(machine.cpus), "-m", str(machine.memory_mib)]
    words += ["-kernel", str(machine.kit / "vmlinuz"), "-initrd", str(machine.kit / "initrd")]
    words += ["-append", " ".join(kernel), "-object", "rng-random,id=rng,filename=/dev/urandom"]
    words += ["-device", "virtio-rng-pci,rng=rng", "-device", "virtio-serial"]
    for disk in disks:
        words += ["-drive", f"{disk},format=raw,if=virtio,cache=unsafe"]
    words += ["-add-fd", f"fd={output},set=1", "-chardev", "file,id=out,path=/dev/fdset/1,append=on"]
    words += ["-device", "virtserialport,chardev=out,name=vm.out"]
    words += ["-chardev", f"file,id=status,path={place / 'status'}"]
    words += ["-device", "virtserialport,chardev=status,name=vm.status"]
    return [*words, "-chardev", f"file,id=console,path={place / 'console'}", "-serial", "chardev:console"]


def _tail(path: Path) -> str:
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-60:]) or "(nothing)"


def _unpack_artifacts(disk: Path, target: Path) -> None:
    """Take out what the command has left; a machine is not trusted with our paths."""
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(disk) as tar:
        # Debian 12's Python 3.11.2 has no filters yet: there, only what is plain and inside is taken.
        if hasattr(tarfile, "data_filter"):
            tar.extractall(target, filter="data")
        else:
            tar.extractall(target, [member for member in tar if _is_tame(member)])
    if not any(target.iterdir()):
        say("the command left no artifacts")


def _is_tame(member: tarfile.TarInfo) -> bool:
    parts = member.name.split("/")
    return (member.isreg() or member.isdir()) and parts[0] != "" and ".." not in parts


def clear(directory: Path) -> None:
    """Make an empty directory of this name."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
