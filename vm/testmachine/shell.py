"""vm/shell: a root shell in the machine, on this terminal."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from testmachine import image, kernels
from testmachine.cache import MachineError, need, say
from testmachine.machine import CGROUP_WORDS, accelerator, pack_source


def main() -> int:
    """Boot on the serial console and log root in; the machine is thrown away when it is powered off."""
    words = argparse.ArgumentParser(
        prog="vm/shell", description="A root shell in the test machine, in a copy of this tree; `poweroff` ends it."
    )
    words.add_argument("--kernel", default="6.1", choices=list(kernels.LINES))
    words.add_argument("--cgroup", default="v2", choices=list(CGROUP_WORDS))
    words.add_argument("--docker", action="store_true", help="with Debian's dockerd installed")
    words.add_argument("--memory", type=int, default=2048, metavar="MIB")
    chosen = words.parse_args()
    qemu = os.environ.get("QEMU", "qemu-system-x86_64")
    try:
        need([f"{qemu} (qemu-system-x86)"])
        root, kit = image.build(chosen.docker), kernels.kit(chosen.kernel)
        with tempfile.TemporaryDirectory(prefix="vm-", dir="/var/tmp") as scratch:
            source = Path(scratch) / "source.tar"
            pack_source(source, "")
            kernel = f"console=ttyS0 root=/dev/vda rw net.ifnames=0 quiet {CGROUP_WORDS[chosen.cgroup]}"
            kernel += " systemd.unit=vm-shell.target systemd.show_status=0"
            line = [qemu, "-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", *accelerator()]
            line += ["-smp", "2", "-m", str(chosen.memory), "-kernel", str(kit / "vmlinuz")]
            line += ["-initrd", str(kit / "initrd"), "-append", kernel]
            line += ["-drive", f"file={root},format=raw,if=virtio,snapshot=on"]
            line += ["-drive", f"file={source},format=raw,if=virtio,readonly=on"]
            # Ctrl-A x ends it by force; Ctrl-C goes to the machine.
            line += ["-chardev", "stdio,id=tty,mux=on,signal=off", "-serial", "chardev:tty"]
            say("booting; `poweroff` or Ctrl-A x ends the machine")
            return os.spawnvp(os.P_WAIT, line[0], line)
    except MachineError as error:
        say(str(error))
        return 125


if __name__ == "__main__":
    sys.exit(main())
