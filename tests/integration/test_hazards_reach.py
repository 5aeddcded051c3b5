"""What must stay out of reach: the host from a root that was turned (C8), the store from an ordinary user (A12)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import builders, real_images
from tests.conftest import missing
from tests.integration.tool import Tool, command

# The classical escape: a root below the working directory, then up past it, then that as the root.
BREAKOUT = (
    'mkdir "/below"; chdir "/"; chroot "/below" or die "chroot: $!"; chdir ".." for 1 .. 64; '
    'chroot "." or die "chroot: $!"; print -e $ARGV[0] ? "out\n" : "in\n"; opendir(D, "/"); print join(" ", readdir D)'
)


def test_c8_the_double_chroot_ends_in_the_containers_own_root(scratch: Path) -> None:
    tool = Tool(scratch / "root", real_images.minbase())
    canary = scratch / "canary"
    canary.touch()
    done = tool("run", "--rm", "--cap-add", "ALL", "minbase:1", "perl", "-e", BREAKOUT, canary)
    assert done.returncode == 0, done.stderr
    verdict, names = done.stdout.split("\n")
    assert verdict == "in"
    # chroot worked, and what it led back to is the container's root
    assert {".dockerenv", "below"} <= set(names.split())
    assert not Path("/.dockerenv").exists() or not Path("/below").exists()
    # the same program in a root that was only chrooted into does get out: the test can fail
    folder = scratch / "plain"
    folder.mkdir()
    builders.run_command("tar", "-xf", real_images.minbase_rootfs(), "-C", folder)
    plain = builders.run_command("chroot", folder, "perl", "-e", BREAKOUT, canary)
    assert plain.stdout.startswith("out\n")


def test_a12_an_ordinary_user_does_not_reach_a_layers_setuid_files(tool: Tool, scratch: Path) -> None:
    layer = builders.layer_tar(builders.tar_member(b"sh", b"x", mode=0o6755))
    image = builders.ImageSpec([builders.busybox_layer(), layer], tags=["setuid:1"])
    old = os.umask(0)
    try:
        tool.good("load", "-i", builders.docker_archive(scratch / "setuid.tar", image))
        tool.good("create", "--name", "box", "setuid:1", "true")
    finally:
        os.umask(old)
    found = [path for path in tool.root.glob("overlay2/*/diff/sh") if path.stat().st_mode & 0o4000]
    assert found, "the file is there, setuid as in the tar"
    for path in (*found, tool.root / "overlay2", tool.root / "image", tool.directory("box")):
        for mode in (os.R_OK, os.X_OK):
            code = f"import os, sys; sys.exit(os.access({str(path)!r}, {mode}))"
            done = subprocess.run(
                ["/usr/bin/python3", "-I", "-c", code], user=1000, group=1000, extra_groups=[], check=False
            )
            assert done.returncode == 0, path


def test_a_kernel_without_overlay_is_one_line(tool: Tool) -> None:
    if shutil.which("strace") is None:
        missing("strace is not installed")
    before = builders.tree_listing(tool.root)
    # the first mount calls are of other kinds; every one of them may find its file system missing
    for number in range(1, 6):
        words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=mount"]
        words += ["-e", f"inject=mount:error=ENODEV:when={number}"]
        done = subprocess.run(
            [*words, *command("run", "--rm", "busybox:test", "true")],
            env=tool.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 125, (number, done.stderr)
        assert done.stderr.count("\n") == 1 and "No such device" in done.stderr
        assert builders.tree_listing(tool.root) == before


@pytest.mark.parametrize("image", ["missing:1"])
def test_what_is_not_there_leaves_nothing(tool: Tool, image: str) -> None:
    before = builders.tree_listing(tool.root)
    assert tool("run", "--rm", image, "true").returncode == 125
    assert builders.tree_listing(tool.root) == before
