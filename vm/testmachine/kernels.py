"""Kernels, each as a kit: vmlinuz and an initrd that finds the root and brings the modules along.

A private apt directory fetches the package by Debian's signed lists; nothing is installed and no root is needed.
The root image knows no kernel: the initrd copies its modules there at each start (the image itself stays as it is).
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from testmachine.cache import CACHE, MIRROR, VM, MachineError, cached, key_of, need, say
from testmachine.command import run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Line:
    """One line of kernels: where Debian has it."""

    def __init__(self, suite: str, package: str = "linux-image-cloud-amd64") -> None:
        self.suite = suite
        self.package = package


# The kernels of Debian 11, 12 and 13, and the newest that Debian builds for a stable release.
LINES = {
    "5.10": Line("bullseye"),
    "6.1": Line("bookworm"),
    "6.12": Line("trixie"),
    "newest": Line("trixie-backports"),
}

# What the machine and minidock's tests use; what these need comes along. A name that a kernel does not have as a
# module is in it or not there at all: the tests find out.
MODULES = """
virtio_pci virtio_blk virtio_console virtio_net virtio_rng ext4 crc32c_generic crc32c_intel overlay loop squashfs
xfs fuse isofs veth bridge br_netfilter dummy tun macvlan vxlan nf_tables nfnetlink nf_conntrack nf_nat nft_ct
nft_nat nft_masq nft_redir nft_chain_nat nft_compat nft_counter nft_limit nft_log nft_reject nft_reject_inet
nft_reject_ipv4 nft_reject_ipv6 nft_fib nft_fib_inet nft_fib_ipv4 nft_fib_ipv6 nft_hash nft_numgen nft_objref
nft_queue nft_quota nft_socket nf_conntrack_netlink xt_conntrack xt_MASQUERADE xt_addrtype xt_comment xt_nat
xt_tcpudp xt_mark xt_multiport ip_tables ip6_tables iptable_filter iptable_nat ip6table_filter ip6table_nat autofs4
binfmt_misc efivarfs nls_ascii configfs
""".split()


def kit(line: str) -> Path:
    """The directory with `vmlinuz`, `initrd` and `release` of this line's newest kernel, fetched if it is not there.

    Raises:  MachineError when there is no such line or it cannot be fetched
    """
    if line not in LINES:
        raise MachineError(f"no kernel line {line!r}; there are {', '.join(LINES)}")
    key = key_of(LINES[line].suite, LINES[line].package, Path(__file__), VM / "guest/initrd.sh")
    return cached(f"kernel-{line}-{key}", lambda place: _make(line, place))


def _make(line: str, place: Path) -> None:
    need(["apt-get", "dpkg-deb (dpkg)", "depmod (kmod)", "cpio", "busybox (busybox-static)"])
    if not Path(KEYRING).exists():
        raise MachineError("not installed here: apt-get install debian-archive-keyring")
    say(f"fetching kernel {line} from Debian's {LINES[line].suite}")
    unpacked = place / "unpacked"
    for archive in _fetch(LINES[line], place / "apt"):
        run("dpkg-deb", "-x", archive, unpacked)
    modules = next(
        (found for top in ("lib/modules", "usr/lib/modules") for found in sorted((unpacked / top).glob("[0-9]*"))), None
    )
    images = [*sorted((unpacked / "boot").glob("vmlinuz-*")), *sorted(unpacked.glob("usr/lib/modules/*/vmlinuz"))]
    if modules is None or not images:
        raise MachineError(f"Debian's package of kernel {line} holds no kernel or no modules")
    shutil.copyfile(images[0], place / "vmlinuz")
    (place / "release").write_text(modules.name + "\n")
    _make_initrd(modules, place)
    for name in ("unpacked", "apt", "tree"):
        shutil.rmtree(place / name, ignore_errors=True)


def _fetch(line: Line, home: Path) -> list[Path]:
    """The packages that make up the line's kernel."""
    for name in ("state/lists/partial", "cache/archives/partial", "etc"):
        (home / name).mkdir(parents=True)
    (home / "state/status").write_text("")
    source = home / "etc/sources.list"
    source.write_text(f"deb [signed-by={KEYRING}] {MIRROR} {line.suite} main\n")
    settings = {
        "Dir::State": home / "state",
        "Dir::State::status": home / "state/status",
        "Dir::Cache": home / "cache",
        "Dir::Etc::sourcelist": source,
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferencesparts": "-",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        "Acquire::Languages": "none",
        # An old release's lists are past their date; their signature counts all the same.
        "Acquire::Check-Valid-Until": "false",
        "Acquire::Retries": "3",
    }
    options = [f"-o{name}={value}" for name, value in settings.items()]
    run("apt-get", *options, "-qq", "update")
    wanted = _kernel_packages(options, line.package)
    run("apt-get", *options, "-qq", "download", *wanted, cwd=home)
    return sorted(home.glob("*.deb"))


def _kernel_packages(options: list[str], package: str) -> list[str]:
    """From the metapackage to the packages that hold files: since 6.19 image, binary and modules are three."""
    found: list[str] = []
    queue = [package]
    while queue:
        shown = run("apt-cache", *options, "show", "--no-all-versions", queue.pop())
        depends = re.search(r"^Depends: (.*)$", shown, re.MULTILINE)
        for name in re.findall(r"linux-(?:image|binary|modules)-[0-9][\w.+~-]*", depends[1] if depends else ""):
            if name not in found:
                found.append(name)
                queue.append(name)
    if not found:
        raise MachineError(f"apt knows no kernel by {package}")
    return found


def _make_initrd(modules: Path, place: Path) -> None:
    """Busybox, the modules with what they need, and the first program."""
    release = modules.name
    tree = place / "tree"
    target = tree / "lib/modules" / release
    for name in ("bin", "dev", "proc", "sys", "root"):
        (tree / name).mkdir(parents=True)
    target.mkdir(parents=True)
    run("depmod", "-b", modules.parents[2 if modules.parent.parent.name == "lib" else 1], release, env=_with_sbin())
    for path in _with_needs(modules):
        _unpack_module(modules / path, target / path)
    for name in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
        if (modules / name).exists():
            shutil.copyfile(modules / name, target / name)
    run("depmod", "-b", tree, release, env=_with_sbin())
    shutil.copy(shutil.which("busybox") or "/bin/busybox", tree / "bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    shutil.copyfile(VM / "guest/initrd.sh", tree / "init")
    (tree / "init").chmod(0o755)
    run(
        "sh", "-ec", 'find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 >"$1"', "pack", place / "initrd", cwd=tree
    )


def _with_sbin() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def _with_needs(modules: Path) -> list[str]:
    """Paths of the wanted modules and of all that they need, below the modules' directory."""
    needs: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for text in (modules / "modules.dep").read_text().splitlines():
        path, _, others = text.partition(":")
        needs[path] = others.split()
        by_name[Path(path).name.partition(".")[0].replace("-", "_")] = path
    found = {by_name[name] for name in MODULES if name in by_name}
    return sorted(found | {other for path in found for other in needs[path]})


def _unpack_module(source: Path, target: Path) -> None:
    """Uncompressed, since the first program has no time and busybox no zstd; depmod names them anew."""
    target.parent.mkdir(parents=True, exist_ok=True)
    tool = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}.get(source.suffix)
    if tool is None:
        shutil.copyfile(source, target)
        return
    with open(target.with_suffix(""), "wb") as file:
        run(tool, "-dc", source, stdout=file)


def clean() -> None:
    """Remove every part, also those that are asked for no more."""
    shutil.rmtree(CACHE, ignore_errors=True)
