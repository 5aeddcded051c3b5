"""vm/box: the root image and a kernel as a Vagrant box for libvirt.

The box has no boot loader: its own Vagrantfile hands QEMU the kernel and the initrd that lie beside the disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

from testmachine import image, kernels
from testmachine.cache import MachineError, cached, key_of, need, say
from testmachine.command import run

VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  place = File.dirname(File.expand_path(__FILE__))
  config.vm.provider :libvirt do |machine|
    machine.kernel = File.join(place, "vmlinuz")
    machine.initrd = File.join(place, "initrd")
    machine.cmd_line = "root=/dev/vda rw net.ifnames=0 console=ttyS0 quiet"
    machine.disk_bus = "virtio"
  end
end
"""


def _make(place: Path, root: Path, kit: Path) -> None:
    need(["qemu-img (qemu-utils)", "tar", "gzip"])
    tree = place / "tree"
    tree.mkdir()
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", root, tree / "box.img")
    for name in ("vmlinuz", "initrd"):
        shutil.copyfile(kit / name, tree / name)
    size_gb = -(-root.stat().st_size >> 30)
    (tree / "metadata.json").write_text(json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": size_gb}))
    (tree / "Vagrantfile").write_text(VAGRANTFILE)
    # Weakly packed: it is unpacked again on this very machine.
    run(
        "tar", "-C", tree, "-I", "gzip -1", "-cf", place / "minidock.box", *sorted(path.name for path in tree.iterdir())
    )
    shutil.rmtree(tree)


def build(line: str) -> Path:
    """The box with this line's kernel, and beside it a catalog with its version and digest.

    Raises:  MachineError
    """
    root, kit = image.build(), kernels.kit(line)
    key = key_of(root.parent.name, kit.name, VAGRANTFILE)
    box = cached(f"box-{line}-{key}", lambda place: _make(place, root, kit)) / "minidock.box"
    catalog = box.with_name("catalog.json")
    if not catalog.exists():
        digest = hashlib.sha256(box.read_bytes()).hexdigest()
        provider = {"name": "libvirt", "url": f"file://{box}", "checksum": digest, "checksum_type": "sha256"}
        versions = [{"version": f"0.{int(key, 16) % 10**6}.0", "providers": [provider]}]
        catalog.write_text(json.dumps({"name": f"minidock/{line}", "versions": versions}, indent=1) + "\n")
    return box


def main() -> int:
    """Build boxes and print where they lie."""
    words = argparse.ArgumentParser(prog="vm/box", description="Make a Vagrant box (libvirt) of the test machine.")
    words.add_argument("--kernel", default="6.1", choices=list(kernels.LINES))
    chosen = words.parse_args()
    try:
        print(build(chosen.kernel))
    except MachineError as error:
        say(str(error))
        return 125
    return 0


if __name__ == "__main__":
    sys.exit(main())
