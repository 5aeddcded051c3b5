"""What can go wrong around unpacking: damage, dead threads and workers, tiny windows, bombs, full disks."""

from __future__ import annotations

import ctypes
import errno
import gzip
import lzma
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import BadArchive, DigestMismatch, MinidockError, SyscallError
from minidock.store import unpack_worker
from minidock.store.bytewindow import Pipeline, Poisoned
from minidock.store.unpack import rebuild_error, unpack_layers
from tests import builders, layer_cases
from tests.builders import directory, layer_tar, tar_member
from tests.integration.test_unpack import close_job, new_job, unpack_bytes
from tests.integration.test_unpack_packed import SEVERAL, zstd_compress


def children() -> set[str]:
    """The processes that this one has started and not reaped."""
    return {
        pid
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
        if Path(f"/proc/{pid}/cmdline").exists()
    }


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


@pytest.fixture
def small_disk(scratch: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a tmpfs with the given options on scratch/layer."""
    target = scratch / "small"

    def mount(options: str) -> Path:
        target.mkdir()
        builders.run_command("mount", "-t", "tmpfs", "-o", options, "tmpfs", target)
        return target

    yield mount
    subprocess.run(["umount", target], check=False)


def run_forked(work: Callable[[], None], *, seconds: int = 20) -> int:
    """Run work in a forked process under an alarm; returns its wait status."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            signal.alarm(seconds)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize(("window", "piece"), [(1, 1000), (600, 64), (1 << 16, 1 << 15)])
def test_tiny_windows(scratch: Path, window: int, piece: int) -> None:
    """No window is too small: the alarm would tell."""
    job = new_job(scratch / "layer", gzip.compress(SEVERAL), diff_id=builders.sha256(SEVERAL))

    def work() -> None:
        unpacker = unpack_worker.LayerUnpacker(job, lambda done: None, window_bytes=window, piece_bytes=piece)
        unpack_worker.enter_layer(job.diff_fd)
        unpacker.run()

    assert run_forked(work) == 0
    close_job(job)


def test_repeated_extended_headers_in_a_tiny_window(scratch: Path) -> None:
    """Headers that never come to an entry may be longer than any window."""
    headers = builders.pax_member({b"comment": b"c" * 1000}) * 200
    layer = layer_tar(headers, tar_member(b"f", b"x"))
    job = new_job(scratch / "layer", gzip.compress(layer), diff_id=builders.sha256(layer))

    def work() -> None:
        unpacker = unpack_worker.LayerUnpacker(job, lambda done: None, window_bytes=1000, piece_bytes=500)
        unpack_worker.enter_layer(job.diff_fd)
        unpacker.run()

    assert run_forked(work) == 0
    close_job(job)


@pytest.mark.parametrize("thread", ["_feed", "_hash", "_write"])
@pytest.mark.parametrize("compress", [lambda data: data, gzip.compress])
def test_failing_thread_ends_the_layer(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, thread: str, compress: Callable[[bytes], bytes]
) -> None:
    """Whichever thread fails, its own error comes out, soon, from the parent."""
    if thread == "_feed" and compress(b"") == b"":
        thread = "_result"

    def fail(self: Any) -> None:
        raise MinidockError(f"{thread} gave up")

    monkeypatch.setattr(unpack_worker.LayerUnpacker, thread, fail)
    with pytest.raises(MinidockError, match=f"layer layer: {thread} gave up"):
        unpack_bytes(scratch, compress(SEVERAL))


def test_thread_that_dies_without_a_word() -> None:
    pipeline = Pipeline()
    pipeline.start("quiet", lambda: None)
    pipeline.join()
    pipeline._running.add("quiet")
    with pipeline.condition, pytest.raises(Poisoned):
        pipeline.wait()
    assert "the quiet thread" in str(pipeline.error)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_worker(scratch: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its death is told, and the other worker ends with it."""
    make = unpack_worker.LayerUnpacker.__init__

    def stay(self: Any, job: Any, report: Any, trace: Any) -> None:
        def report_and_wait(done: int) -> None:
            report(done)
            signal.pause()

        make(self, job, report_and_wait, trace)

    monkeypatch.setattr(unpack_worker.LayerUnpacker, "__init__", stay)
    big = layer_tar(*(tar_member(b"%d" % part, bytes(8 << 20)) for part in range(8)))
    jobs = [new_job(scratch / name, big, key=name) for name in ("one", "two")]
    before = children()
    killed: list[str] = []

    def progress(key: str, state: str, done: int, total: int) -> None:
        assert state == "Extracting"
        assert 0 < done <= total
        if not killed:
            killed.extend(sorted(children() - before))
            os.kill(int(killed[0]), number)

    with pytest.raises(MinidockError, match=f"ended by signal {int(number)}"):
        unpack_layers(jobs, workers=2, progress=progress)
    for job in jobs:
        close_job(job)
    assert len(killed) == 2


def test_worker_dies_with_its_parent(scratch: Path) -> None:
    """A killed pull leaves nothing that still writes."""
    job = new_job(scratch / "layer", layer_tar(*(tar_member(b"%d" % part, bytes(8 << 20)) for part in range(12))))
    read_end, write_end = os.pipe()
    parent = os.fork()
    if parent == 0:

        def progress(key: str, state: str, done: int, total: int) -> None:
            # the worker goes on until the pipe of its reports is full, and then waits for us
            os.write(write_end, children().pop().encode())
            signal.pause()

        try:
            unpack_layers([job], progress=progress, trace=lambda kind, text: None)
        finally:
            os._exit(0)
    worker = int(os.read(read_end, 20))
    watch = os.pidfd_open(worker)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    assert poll.poll(10_000), "the worker outlived its parent"
    for fd in (watch, read_end, write_end):
        os.close(fd)
    close_job(job)


def test_interrupt_ends_the_workers(scratch: Path) -> None:
    big = layer_tar(tar_member(b"f", bytes(40 << 20)))
    jobs = [new_job(scratch / name, big, key=name) for name in ("one", "two")]

    def progress(key: str, state: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack_layers(jobs, workers=2, progress=progress)
    for job in jobs:
        close_job(job)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_in_the_order_of_jobs(scratch: Path, workers: int) -> None:
    layers = [layer_tar(tar_member(b"f", os.urandom(size))) for size in (10, 100_000, 1000, 0, 50_000)]
    jobs = [new_job(scratch / str(number), layer, key=str(number)) for number, layer in enumerate(layers)]
    results = unpack_layers(jobs, workers=workers)
    assert [result.diff_id for result in results] == [builders.sha256(layer) for layer in layers]
    assert [result.key for result in results] == list("01234")
    for job in jobs:
        close_job(job)
    assert unpack_layers([]) == []


def test_one_bad_layer_fails_all(scratch: Path) -> None:
    layers = [SEVERAL, layer_cases.REFUSED["bad-checksum"], SEVERAL]
    jobs = [new_job(scratch / str(number), layer, key=str(number)) for number, layer in enumerate(layers)]
    with pytest.raises(BadArchive, match="layer 1: "):
        unpack_layers(jobs)
    for job in jobs:
        close_job(job)


@pytest.mark.parametrize("size", [3 << 20, 40 << 20])
def test_blob_cut_while_it_is_read(scratch: Path, size: int) -> None:
    job = new_job(scratch / "layer", layer_tar(*(tar_member(b"%d" % part, bytes(size)) for part in range(3))))
    path = scratch / "layer" / "blob"

    def cut(key: str, state: str, done: int, total: int) -> None:
        os.truncate(path, 4096)

    if size == 3 << 20:
        os.truncate(path, 4096)
    try:
        [layer] = unpack_layers([job], progress=cut)
    except BadArchive as error:
        assert "layer layer: " in str(error)
    else:
        # all of it was read before the first report came through
        assert layer.tar_bytes == job.blob.length_bytes
        assert size != 3 << 20
    close_job(job)


def test_file_system_without_mappings(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack_worker.LayerUnpacker, "_map_blob", lambda self: None)
    digest = builders.sha256(SEVERAL)
    ours = unpack_bytes(scratch, SEVERAL, offset=99, diff_id=digest, digest=digest)
    assert ours.reassembled() == SEVERAL


def test_no_module_is_taken_from_the_layer(scratch: Path) -> None:
    """A layer that has the interpreter's own directories, full of modules, at the very paths it looks at."""
    evil = b"open('/imported', 'w')\n"
    names = ["isal.py", "backports/zstd/__init__.py", "encodings/unicode_escape.py", "lzma.py", "json/__init__.py"]
    members = [
        tar_member(os.fsencode(f"{entry.lstrip('/')}/{name}"), evil)
        for entry in dict.fromkeys(sys.path)
        if entry.startswith("/")
        for name in names
    ]
    layer = layer_tar(*members, tar_member(b"new\nline\xff", pax={b"SCHILY.xattr.nonsense.x": b"1"}))
    for compress in (zstd_compress, lzma.compress):
        ours = unpack_bytes(scratch, compress(layer))
        assert not (ours.diff / "imported").exists()
        assert "new" in ours.layer.warnings[0]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_umask_changes_nothing(scratch: Path, umask: int) -> None:
    layer = layer_tar(
        layer_cases.OK["setuid"][:-1024],
        layer_cases.OK["dev-nodes"][:-1024],
        tar_member(b"made/parents/f", b"x", mode=0o666),
        directory(b"open", mode=0o777),
    )
    before = os.umask(umask)
    try:
        ours = unpack_bytes(scratch, layer)
    finally:
        os.umask(before)
    modes = {path: mode for path, mode, *_ in builders.tree_listing(ours.diff)}
    assert modes[b"/made"] == modes[b"/made/parents"] == 0o40755
    assert modes[b"/made/parents/f"] == 0o100666
    assert modes[b"/open"] == 0o40777
    assert modes[b"/su"] == 0o104755
    assert modes[b"/sgid"] == 0o42775
    assert modes[b"/sgid/sub"] == 0o40755
    assert (ours.diff / "sgid/child").stat().st_gid == 0
    assert modes[b"/null"] == 0o20666


def test_full_disk(scratch: Path, small_disk: Callable[[str], Path]) -> None:
    base = small_disk("size=1m")
    job = new_job(scratch / "layer", layer_tar(tar_member(b"big", os.urandom(4 << 20))))
    os.close(job.diff_fd)
    job.diff_fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(SyscallError, match="big: No space left on device") as caught:
        unpack_layers([job])
    assert caught.value.errno == errno.ENOSPC
    assert "\n" not in str(caught.value)
    close_job(job)


def test_no_inodes_left(scratch: Path, small_disk: Callable[[str], Path]) -> None:
    base = small_disk("nr_inodes=50")
    job = new_job(scratch / "layer", layer_tar(*(tar_member(b"f%d" % number) for number in range(100))))
    os.close(job.diff_fd)
    job.diff_fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(SyscallError, match="No space left on device"):
        unpack_layers([job])
    close_job(job)


def test_the_last_inodes_are_left_to_the_host(scratch: Path, small_disk: Callable[[str], Path]) -> None:
    base = small_disk("nr_inodes=3000")
    job = new_job(scratch / "layer", layer_tar(*(tar_member(b"f%d" % number) for number in range(5000))))
    os.close(job.diff_fd)
    job.diff_fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(SyscallError, match="only 9.. inodes are left"):
        unpack_layers([job])
    close_job(job)
    assert os.statvfs(base).f_favail > 900


def test_sparse_bomb_makes_holes(scratch: Path, small_disk: Callable[[str], Path]) -> None:
    base = small_disk("size=64m")
    bombs = [layer_cases.sparse_1_0(b"a", 2 << 30, [(1 << 30, b"x")]), layer_cases.sparse_gnu(b"b", 7 << 30, [])]
    job = new_job(scratch / "layer", layer_tar(*bombs))
    os.close(job.diff_fd)
    job.diff_fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    [layer] = unpack_layers([job])
    assert layer.size_bytes == 9 << 30
    status = os.statvfs(base)
    assert (status.f_blocks - status.f_bfree) * status.f_bsize < 1 << 20
    close_job(job)


def test_compression_bomb_in_little_memory(scratch: Path) -> None:
    """150 MB out of 150 KB, with less private memory than that allowed to the worker."""
    layer = layer_tar(tar_member(b"zeros", bytes(100 << 20)), end=bytes(50 << 20))
    job = new_job(scratch / "layer", gzip.compress(layer, 1), diff_id=builders.sha256(layer))
    in_use = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    del layer

    def work() -> None:
        limit = in_use + (100 << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        unpacker = unpack_worker.LayerUnpacker(job, lambda done: None)
        unpack_worker.enter_layer(job.diff_fd)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        unpacker.run()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10

    assert run_forked(work) == 0
    close_job(job)


def test_trace_and_progress(scratch: Path) -> None:
    job = new_job(scratch / "layer", SEVERAL, key="k")
    lines: list[tuple[str, str]] = []
    done: list[int] = []
    [layer] = unpack_layers(
        [job],
        trace=lambda kind, text: lines.append((kind, text)),
        progress=lambda key, state, now, total: done.append(now),
    )
    close_job(job)
    assert ("write", "k: d/5 0644 0:0 (185 bytes)") in lines
    assert ("write", "k: s 0777 0:0 -> d") in lines
    assert lines[-1] == ("hash", f"# sha256 of {len(SEVERAL)} bytes of tar: diff_id = {layer.diff_id}")
    assert done[-1] == len(SEVERAL)


@pytest.mark.parametrize(
    "error",
    [
        BadArchive("bad", hint="mend"),
        DigestMismatch("diff_id", expected="a", actual="b"),
        SyscallError("unpack f", errno.ENOSPC),
    ],
)
def test_errors_survive_the_pipe(error: MinidockError) -> None:
    rebuilt = rebuild_error("k", unpack_worker.describe_error(error))
    assert type(rebuilt) is type(error)
    assert str(rebuilt) == f"layer k: {error}"


def test_needs_root(scratch: Path) -> None:
    """Without the right to chroot there is one clear line."""
    job = new_job(scratch / "layer", SEVERAL)

    def work() -> None:
        os.setresuid(1000, 1000, 1000)
        with pytest.raises(SyscallError, match="needs root rights"):
            unpack_layers([job])

    assert run_forked(work) == 0
    close_job(job)


def test_user_namespace(scratch: Path) -> None:
    """Devices are left out with a warning; whiteouts, which need no right, are made."""
    layer = layer_tar(
        tar_member(b"null", type=b"3", devmajor=1, devminor=3), tar_member(b".wh.gone"), tar_member(b"after", b"x")
    )
    job = new_job(scratch / "layer", layer)

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(0x10000000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWUSER
        for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            Path(f"/proc/self/{name}").write_text(text)
        [result] = unpack_layers([job])
        assert result.warnings == ["null: no right to make a device, left out"]

    assert run_forked(work) == 0
    close_job(job)
    assert sorted(os.listdir(scratch / "layer/diff")) == ["after", "gone"]
    assert (scratch / "layer/diff/gone").stat().st_rdev == 0
