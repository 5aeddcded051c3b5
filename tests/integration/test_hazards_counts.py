"""Hazards that only a great number or size shows: MINIDOCK_WHOLE=1 runs the catalogue's counts, else fewer."""

from __future__ import annotations

import gzip
import hashlib
import os
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from tests import builders, real_images
from tests.conftest import missing, remove_tree, whole
from tests.integration.tool import GROUPS, Terminal, Tool, command, wait_until

BOX = "busybox:test"

# RENAME_EXCHANGE: the name is always there, now a directory, now a symlink.
SWAP = '$one = "/volume/real"; $two = "/volume/target"; syscall(316, -100, $one, -100, $two, 2) while 1'


def test_c4_containers_that_share_a_volume_swap_the_mount_targets(tool: Tool, scratch: Path) -> None:
    """While two containers swap a directory with a symlink to the host, others start with a mount below its name."""
    tool.good("load", "-i", real_images.minbase())
    canary, volume, source = (scratch / name for name in ("canary", "volume", "source"))
    for folder in (canary, volume / "real", source):
        folder.mkdir(parents=True)
    (canary / "sub").mkdir()
    (canary / "file").write_text("canary\n")
    (source / "mark").write_text("mark\n")
    (volume / "target").symlink_to(canary)
    before = builders.tree_listing(canary)
    for name in ("one", "two"):
        tool.good(
            "run", "-d", "--name", name, "--network", "none", "-v", f"{volume}:/volume", "minbase:1", "perl", "-e", SWAP
        )
    binds = ["-v", f"{volume}:/volume", "-v", f"{source}:/volume/target/sub"]
    codes: dict[int, int] = {}
    for _ in range(whole(1000, 25)):
        done = tool("run", "--rm", "--network", "none", *binds, BOX, "true")
        codes[done.returncode] = codes.get(done.returncode, 0) + 1
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == (1 if done.returncode else 0), done.stderr
        assert builders.tree_listing(canary) == before
    assert set(codes) <= {0, 125}, codes
    assert codes.get(0), codes
    assert tool.status("one") == tool.status("two") == "running"
    assert str(canary) not in Path("/proc/self/mountinfo").read_text()


def test_d7_no_orphan_is_left_under_init(tool: Tool) -> None:
    count = whole(10_000, 400)
    # Each inner shell ends before its child does.
    loop = "i=0; while [ $i -lt $1 ]; do (true & true) & i=$((i+1)); [ $((i % 50)) != 0 ] || wait; done; wait"
    words = [BOX, "sh", "-c", f"{loop}; echo all; read line", "sh", str(count)]
    started = tool.start("run", "--rm", "-i", "--init", "--name", "box", *words, stdin=-1, stdout=-1)
    assert started.stdout is not None and started.stdin is not None
    assert started.stdout.readline() == b"all\n"

    def left() -> bool:
        # ps itself, its heading, init and the shell
        return len(tool.good("exec", "box", "ps").splitlines()) == 4

    wait_until(left, "every orphan to be reaped")
    started.communicate(b"\n", timeout=60)
    assert started.returncode == 0


# What is run, what comes out; the first words are the command line's up to the image.
ENDS: list[tuple[list[str], list[str], int]] = [
    ([], ["true"], 0),
    ([], ["false"], 1),
    ([], ["sh", "-c", "exit 2"], 2),
    ([], ["sh", "-c", "exit 42"], 42),
    ([], ["sh", "-c", "exit 125"], 125),
    ([], ["sh", "-c", "exit 126"], 126),
    ([], ["sh", "-c", "exit 127"], 127),
    ([], ["sh", "-c", "exit 128"], 128),
    ([], ["sh", "-c", "exit 255"], 255),
    ([], ["sh", "-c", "exit 256"], 0),
    ([], ["sh", "-c", "nosuch"], 127),
    ([], ["sh", "-c", "/etc"], 126),
    ([], ["sh", "-c", "kill -9 $$; exit 4"], 4),
    ([], ["sh", "-c", "kill -15 $$; exit 5"], 5),
    ([], ["sh", "-c", "sh -c 'kill -15 $$'; exit $?"], 143),
    ([], ["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
    (["--init"], ["true"], 0),
    (["--init"], ["sh", "-c", "exit 3"], 3),
    (["--init"], ["sh", "-c", "kill -9 $$"], 137),
    (["--init"], ["sh", "-c", "kill -15 $$"], 143),
    (["--init"], ["sh", "-c", "kill -11 $$"], 139),
    (["--init"], ["nosuch"], 127),
    ([], ["nosuch"], 127),
    ([], ["/bin/nosuch"], 127),
    ([], ["./nosuch"], 127),
    ([], ["/etc"], 126),
    ([], ["/etc/passwd"], 126),
    (["-u", "alice"], ["/root/x"], 126),
    (["-w", "/etc/passwd"], ["true"], 125),
    (["--entrypoint", "nosuch"], [], 127),
    (["--entrypoint", "sh"], ["-c", "exit 9"], 9),
    (["--nosuch"], ["true"], 125),
    (["-u", "nosuch"], ["true"], 125),
]


@pytest.mark.parametrize(("options", "words", "code"), ENDS)
def test_d7_exit_codes(tool: Tool, options: list[str], words: list[str], code: int) -> None:
    done = tool("run", "--rm", "--network", "none", *options, BOX, *words)
    assert done.returncode == code, done.stderr


def test_d2_only_three_descriptors_in_every_kind_of_process(tool: Tool) -> None:
    """run, run -it, -d, exec and exec -it, called with fifty descriptors open that a child would inherit."""
    extra = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(50)]
    for handle in extra:
        os.set_inheritable(handle, True)
    options = {"close_fds": False}
    # Asked one by one, since a listing opens a descriptor itself.
    look = ["sh", "-c", "fd=0; while [ $fd -lt 300 ]; do [ ! -e /proc/$$/fd/$fd ] || echo $fd; fd=$((fd+1)); done"]
    expected = "0\n1\n2"
    try:
        run = ["run", "--rm", "--network", "none"]
        assert tool.good(*run, BOX, *look, **options) == expected
        assert tool.good(*run, "-i", BOX, *look, stdin=subprocess.DEVNULL, **options) == expected
        assert tool.good(*run, "--init", BOX, *look, **options) == expected
        tool.good("run", "-d", "--network", "none", "--name", "box", BOX, *look, **options)
        assert tool.good("wait", "box") == "0"
        assert tool.good("logs", "box") == expected
        tool.good("run", "-d", "--network", "none", "--name", "long", BOX, "sleep", "1000", **options)
        assert tool.good("exec", "long", *look, **options) == expected
        assert tool.good("exec", "-i", "long", *look, stdin=subprocess.DEVNULL, **options) == expected
        assert tool.good("exec", "long", "ls", "/proc/1/fd", **options) == expected
        for words in ([*run, "-it", BOX, *look], ["exec", "-it", "long", *look]):
            terminal = Terminal(tool, *words)
            shown = terminal.expect(b"2\r\n")
            terminal.wait()
            terminal.close()
            assert shown.split() == [b"0", b"1", b"2"], shown
    finally:
        for handle in extra:
            os.close(handle)


def write_bomb(path: Path, size_bytes: int) -> str:
    """A gzip file of one layer with a file of zeros, made without holding it; returns the layer's diff_id."""
    digest = hashlib.sha256()
    zeros = bytes(1 << 20)
    with open(path, "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", compresslevel=9, mtime=0) as packed:
        head = builders.tar_header(b"zeros", size=size_bytes)
        for part in (head, *[zeros] * (size_bytes >> 20), bytes(1024)):
            packed.write(part)
            digest.update(part)
    return "sha256:" + digest.hexdigest()


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory on the disk: what is on tmpfs counts as memory."""
    path = Path("/var/tmp") / f"minidock-test-{uuid.uuid4().hex[:12]}"
    path.mkdir()
    yield path
    remove_tree(path)


@pytest.fixture
def little_memory() -> Iterator[list[Path]]:
    """Where a process writes itself in to have 200 MB of memory, page cache included."""
    limit = str(200 << 20)
    v1, v2 = GROUPS / "memory", GROUPS / "cgroup.controllers"
    parent, name = (v1, "memory.limit_in_bytes") if v1.is_dir() else (GROUPS, "memory.max")
    if not v1.is_dir() and not (v2.exists() and "memory" in (GROUPS / "cgroup.subtree_control").read_text()):
        missing("no memory controller")
    group = parent / f"minidock-test-{uuid.uuid4().hex[:12]}"
    group.mkdir()
    (group / name).write_text(limit)
    yield [group / "cgroup.procs"]
    wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group to be empty")
    group.rmdir()


def test_a16_a_compression_bomb_in_little_memory(disk: Path, little_memory: list[Path]) -> None:
    """Zeros by the gigabyte out of a megabyte of gzip: loaded under a limit of 200 MB, and never held."""
    size_bytes = whole(1 << 30, 300 << 20)
    layer = disk / "layer.tar.gz"
    diff_id = write_bomb(layer, size_bytes)
    assert layer.stat().st_size < 2 << 20
    config = builders.image_config([diff_id])
    image = builders.ImageSpec([b""], tags=["bomb:1"], config=config)
    builders.docker_archive(disk / "bomb.tar", image, compress=lambda data: layer.read_bytes())
    words = command("--root", str(disk / "root"), "load", "-i", disk / "bomb.tar")
    script = 'echo $$ >"$0" && exec "$@"'
    done = builders.run_command("sh", "-c", script, *little_memory, *words, check=False, timeout=600)
    assert (done.returncode, done.stdout) == (0, "Loaded image: bomb:1\n"), done.stderr
    (made,) = (disk / "root/overlay2").glob("*/diff/zeros")
    assert made.stat().st_size == size_bytes


@pytest.fixture
def few_inodes(disk: Path) -> Iterator[Path]:
    """An ext4 file system with few inodes on a loop device."""
    inodes = whole(100_000, 4_000)
    image, where = disk / "ext4", disk / "mounted"
    with open(image, "wb") as file:
        file.truncate(1 << 30 if inodes > 10_000 else 64 << 20)
    builders.run_command("mkfs.ext4", "-q", "-F", "-N", str(inodes), image)
    where.mkdir()
    mounted = builders.run_command("mount", "-o", "loop", image, where, check=False)
    if mounted.returncode:
        missing(f"no loop device: {mounted.stderr}")
    yield where
    builders.run_command("umount", where)


def _write_countless(file: BinaryIO, count: int) -> str:
    digest = hashlib.sha256()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed:
        part: list[bytes] = []
        for number in range(count):
            part.append(builders.tar_header(b"d%d/f%d" % (number % 1000, number)))
            if len(part) == 1000 or number == count - 1:
                data = b"".join(part) + (bytes(1024) if number == count - 1 else b"")
                packed.write(data)
                digest.update(data)
                part = []
    return "sha256:" + digest.hexdigest()


def test_a21_countless_files_on_a_disk_of_few_inodes(disk: Path, few_inodes: Path) -> None:
    count = whole(1_000_000, 12_000)
    with open(disk / "layer.tar.gz", "wb") as file:
        diff_id = _write_countless(file, count)
    config = builders.image_config([diff_id])
    image = builders.ImageSpec([b""], tags=["countless:1"], config=config)
    layer = (disk / "layer.tar.gz").read_bytes()
    builders.docker_archive(disk / "countless.tar", image, compress=lambda data: layer)
    root = few_inodes / "root"
    builders.run_command(*command("--root", str(root), "images"), check=False)
    # A first image makes the root's own directories.
    small = builders.ImageSpec([builders.layer_tar(builders.directory(b"d"))], tags=["small:1"])
    builders.run_command(
        *command("--root", str(root), "load", "-i", builders.docker_archive(disk / "small.tar", small))
    )
    before, free = builders.tree_listing(root), os.statvfs(few_inodes).f_ffree
    done = builders.run_command(
        *command("--root", str(root), "load", "-i", disk / "countless.tar"), check=False, timeout=600
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "inodes" in done.stderr or "No space left on device" in done.stderr, done.stderr
    assert builders.tree_listing(root) == before
    assert os.statvfs(few_inodes).f_ffree == free


# One line a command; $S is a scratch directory on the host.
EVERY_COMMAND = """
load -i $S/busybox.tar
volume create vol
run --name one --network none -v vol:/v -v $S/bind:/bind --tmpfs /t busybox:test sh -c 'echo x >/new; echo y >/v/y'
run --rm --network none --read-only --privileged busybox:test mount -t tmpfs inside /tmp
run -d --name two --network none -v $S/bind:/bind:rslave busybox:test sleep 1000
exec two mount
exec --privileged two sh -c 'mount -t tmpfs inside /tmp || true'
cp $S/busybox.tar two:/in
cp two:/in $S/out
pause two
unpause two
diff two
commit one made:1
commit two made:2
export -o $S/export.tar two
export -o $S/export.tar one
import $S/export.tar imported:1
save -o $S/saved.tar made:1 busybox:test
stats --no-stream two
top two
logs one
stop -t 0 two
start two
restart -t 0 two
kill two
start -a one
cp one:/new $S/new
rm -f -v one two
volume rm vol
rmi made:1 made:2 imported:1
system df
system prune -f
"""


def test_c7_no_command_leaves_a_mount_on_a_shared_host(scratch: Path, busybox_archive: Path) -> None:
    """In a mount namespace whose every mount is shared, as on ordinary hosts: the table is the same behind each."""
    (scratch / "bind").mkdir()
    shutil.copyfile(busybox_archive, scratch / "busybox.tar")
    start = shlex.join(command("--root", str(scratch / "root")))
    steps = []
    for line in EVERY_COMMAND.strip().splitlines():
        steps.append(f"{start} {line} >$S/said 2>&1 || {{ echo failed: {shlex.quote(line)}; cat $S/said; exit 1; }}")
        # What others have mounted may go meanwhile, with the directory that it was on; nothing may come.
        new = 'new=$(table | grep -vxFf $S/before); [ -z "$new" ] && grep -q " $S/bind " /proc/self/mountinfo'
        steps.append(f'{new} || {{ echo changed by: {shlex.quote(line)}; echo "$new"; exit 1; }}')
    script = "\n".join(
        [
            f"S={scratch}; mount --make-rshared /; mount --bind $S/bind $S/bind; mount --make-shared $S/bind",
            "table() { sed 's/^[0-9]* [0-9]* //' /proc/self/mountinfo; }",
            "table >$S/before",
            *steps,
        ]
    )
    done = builders.run_command("unshare", "-m", "bash", "-c", script, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
