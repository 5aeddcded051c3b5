"""The root image: a Debian with systemd, what minidock and its tests need, and no kernel of its own.

mmdebstrap makes the tree (as root, or as an ordinary user in a user namespace), mke2fs puts it into an ext4 image
without mounting anything. minidock itself is not in it: the source tree comes in at each start (/src), and the
environment in /opt/minidock points there. With `docker`, Debian's docker.io is in it, too.
"""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from pathlib import Path

from testmachine.cache import MIRROR, PROJECT, VM, MachineError, cached, key_of, need, say
from testmachine.command import run

SUITE = "bookworm"
PYTHON = "3.11"
PACKAGES = (
    "systemd systemd-sysv dbus udev kmod iproute2 nftables iptables ca-certificates"
    " python3 libmagic1 libseccomp2 busybox-static e2fsprogs xfsprogs squashfs-tools openssh-server sudo rsync"
    " attr acl procps psmisc strace"
    " libcap2-bin xz-utils zstd bzip2 gzip jq openssl util-linux mount tar git socat netcat-openbsd apparmor"
)
DOCKER = "docker.io containerd runc"
SIZE = "4G"

# Documents and translations that no test reads.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


def requirements() -> list[str]:
    """The Python packages of minidock and of its tests that run in the machine."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    tests = [word for word in project["optional-dependencies"]["test"] if not word.startswith(("ruff", "mypy"))]
    return [*project["dependencies"], *tests]


def _guest_files() -> list[Path]:
    return sorted(path for path in (VM / "guest").iterdir() if path.is_file())


def image_key(docker: bool) -> str:
    """What the image's name carries: the hash of everything that it is made from."""
    packages = f"{PACKAGES} {DOCKER}" if docker else PACKAGES
    entry = PROJECT / "minidock/entry.sh"
    return key_of(SUITE, packages, SIZE, "\n".join(requirements()), Path(__file__), entry, *_guest_files())


def build(docker: bool = False) -> Path:
    """The image's file, built if its inputs have changed.

    Raises:  MachineError
    """
    name = f"image-{'docker-' if docker else ''}{image_key(docker)}"
    return cached(name, lambda place: _make(place, docker)) / "root.ext4"


def _make(place: Path, docker: bool) -> None:
    as_root = os.geteuid() == 0
    need(["mmdebstrap", "mke2fs (e2fsprogs)", "tar", *([] if as_root else ["fakeroot", "newuidmap (uidmap)"])])
    say(f"building the root image of {SUITE}{' with docker.io' if docker else ''} (about a minute)")
    packages = place / "packages.tar"
    _python_packages(place / "python", packages)
    tree = place / "root.tar"
    _bootstrap(tree, packages, docker, "root" if as_root else "unshare")
    _pack(tree, place, [] if as_root else ["fakeroot", "--"])
    for path in (tree, packages):
        path.unlink()
    shutil.rmtree(place / "python")


def _python_packages(target: Path, packed: Path) -> None:
    """Fetch the Python packages for the machine's Python and pack them; nothing of them is run here."""
    words: list[str | Path] = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--target",
        target,
    ]
    words += ["--python-version", PYTHON, "--only-binary=:all:", "--no-compile"]
    run(_python_with_pip(), *words, *requirements())
    # The editable install that an environment has for a source tree; minidock/entry.sh reads it.
    (target / "_minidock.pth").write_text("/src\n")
    (target / "_vm.pth").write_text("/src/vm\n")
    run("tar", "-C", target, "--owner=0", "--group=0", "--sort=name", "-cf", packed, ".")


def _python_with_pip() -> str:
    for python in (sys.executable, str(PROJECT / ".venv/bin/python3"), "/usr/bin/python3", shutil.which("python3")):
        if python and Path(python).exists() and os.system(f"{python} -m pip --version >/dev/null 2>&1") == 0:
            return python
    raise MachineError("no Python with pip here: apt-get install python3-pip, or run `sh tests/bootstrap setup`")


def _bootstrap(tree: Path, packages: Path, docker: bool, mode: str) -> None:
    included = f"{PACKAGES} {DOCKER}" if docker else PACKAGES
    words = [f"--mode={mode}", "--variant=minbase", f"--include={','.join(included.split())}"]
    words += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    words += ["--aptopt=Apt::Install-Recommends false", "--aptopt=Acquire::Retries 3"]
    if mode == "unshare":
        # mmdebstrap binds the host's, which the kernel refuses to a user where anything is mounted below it.
        words += ["--setup-hook=mount -t tmpfs -o mode=1777 tmpfs /dev/shm"]
    guest = " ".join(str(path) for path in _guest_files())
    words += [
        '--customize-hook=mkdir -p "$1/usr/lib/minidock-vm"',
        f"--customize-hook=copy-in {guest} /usr/lib/minidock-vm",
        f"--customize-hook=copy-in {PROJECT / 'minidock/entry.sh'} /usr/lib/minidock-vm",
        '--customize-hook=chroot "$1" sh /usr/lib/minidock-vm/setup.sh',
        f"--customize-hook=tar-in {packages} /opt/minidock/lib/python{PYTHON}/site-packages",
        # Compiled here, where it costs nothing: in the machine every start would compile anew.
        f'--customize-hook=chroot "$1" python3 -m compileall -q /opt/minidock/lib /usr/lib/python{PYTHON}',
    ]
    run("mmdebstrap", *words, SUITE, tree, MIRROR)


def _pack(tree: Path, place: Path, before: list[str]) -> None:
    root = place / "root"
    script = (
        'mkdir -m 755 "$2" && tar -C "$2" --exclude="./dev/*" --xattrs --xattrs-include="*" -xpf "$1"'
        ' && mke2fs -q -F -t ext4 -O ^has_journal -L root -d "$2" "$3" "$4" && rm -rf "$2"'
    )
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    run(*before, "sh", "-ec", script, "pack", tree, root, place / "root.ext4", SIZE, env=environment)
