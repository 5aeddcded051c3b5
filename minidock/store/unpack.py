"""Layers become directories: one pass over each tar, in a worker of its own that cannot leave the directory.

The parent hands out jobs, longest first, to as many forked workers as there are cores, shows their progress, and
on the first failure ends them all. It leaves what was written to the caller, who stages it and throws it away.
"""

from __future__ import annotations

import os

from minidock import errors
from minidock.errors import BadArchive, DigestMismatch, MinidockError, SyscallError
from minidock.formats.gojson import encode_json, parse_json
from minidock.ids import DiffID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Protocol

    from minidock.ids import Digest
    from minidock.trace import Progress, Trace

    class LayerBlob(Protocol):
        """A layer's bytes inside a file; compression as sniff() says, empty if not known yet."""

        @property
        def fd(self) -> int: ...
        @property
        def offset(self) -> int: ...
        @property
        def length_bytes(self) -> int: ...
        @property
        def compression(self) -> str: ...
        @property
        def blob_digest(self) -> Digest | None: ...
        def describe(self) -> str: ...


# How much more work a compressed byte is than a plain one, for the order of the jobs only.
_COMPRESSED_WEIGHT = 4
_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


class UnpackJob:
    """One layer to unpack.

    Shape: key names the layer in progress and errors; diff_fd: its empty directory; tar_split_fd: where
           tar-split.json.gz is written; diff_id: what the tar must hash to, None to accept any
    Units: time_ns: what whiteouts and directories get that the tar has no time for; None for the present
    """

    __slots__ = ("blob", "diff_fd", "diff_id", "key", "tar_split_fd", "time_ns")

    def __init__(
        self,
        key: str,
        blob: LayerBlob,
        diff_fd: int,
        tar_split_fd: int,
        diff_id: DiffID | None,
        time_ns: int | None = None,
    ) -> None:
        self.time_ns = time_ns
        self.key = key
        self.blob = blob
        self.diff_fd = diff_fd
        self.tar_split_fd = tar_split_fd
        self.diff_id = diff_id


class UnpackedLayer:
    """What unpacking found out.

    Units: size_bytes: of all files, each inode once (layerdb's `size`); tar_bytes: of the uncompressed stream
    """

    __slots__ = ("diff_id", "entries", "key", "size_bytes", "tar_bytes", "warnings")

    def __init__(
        self, key: str, diff_id: DiffID, size_bytes: int, tar_bytes: int, entries: int, warnings: list[str]
    ) -> None:
        self.key = key
        self.diff_id = diff_id
        self.size_bytes = size_bytes
        self.tar_bytes = tar_bytes
        self.entries = entries
        self.warnings = warnings


class _Worker:
    """A forked unpacker and the pipe it reports on, one JSON document a line."""

    __slots__ = ("buffer", "job", "pid", "pipe", "result")

    def __init__(self, job: UnpackJob, pid: int, pipe: int) -> None:
        self.job = job
        self.pid = pid
        self.pipe = pipe
        self.buffer = b""
        self.result: UnpackedLayer | None = None

    def end(self) -> int:
        """Kill the worker if it still runs and reap it; returns its wait status."""
        os.close(self.pipe)
        try:
            os.kill(self.pid, _SIGKILL)
        except ProcessLookupError:
            pass
        try:
            return os.waitpid(self.pid, 0)[1]
        except ChildProcessError:
            return 0


def unpack_layers(
    jobs: list[UnpackJob],
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    trace: Trace | None = None,
) -> list[UnpackedLayer]:
    """Unpack layers side by side.

    Shape:   workers: at most so many at once, the number of usable cores if None
    Returns: one result for each job, in the order of jobs; nothing is synced to disk
    Raises:  BadArchive, UnsafePath, DigestMismatch, SyscallError: the first failure; all workers have ended then
    """
    from minidock.store.unpack_worker import preload

    preload({job.blob.compression for job in jobs})
    limit = workers or len(os.sched_getaffinity(0))
    order = sorted(range(len(jobs)), key=lambda number: _weight(jobs[number]))
    results: dict[int, UnpackedLayer] = {}
    running: dict[int, tuple[int, _Worker]] = {}
    try:
        while order or running:
            while order and len(running) < limit:
                number = order.pop()
                worker = _start(jobs[number], trace is not None)
                running[worker.pipe] = (number, worker)
            for pipe in _readable(list(running)):
                number, worker = running[pipe]
                if _listen(worker, progress, trace):
                    del running[pipe]
                    results[number] = _finish(worker)
    finally:
        for _, worker in running.values():
            worker.end()
    return [results[number] for number in range(len(jobs))]


def _weight(job: UnpackJob) -> int:
    return job.blob.length_bytes * (1 if job.blob.compression == "none" else _COMPRESSED_WEIGHT)


def _readable(pipes: list[int]) -> list[int]:
    import select

    poll = select.poll()
    for pipe in pipes:
        poll.register(pipe, select.POLLIN)
    return [pipe for pipe, _ in poll.poll()]


def _listen(worker: _Worker, progress: Progress | None, trace: Trace | None) -> bool:
    """Take what the worker reports; returns whether it has closed its pipe. Raises what the worker raised."""
    data = os.read(worker.pipe, 1 << 16)
    if not data:
        return True
    *lines, worker.buffer = (worker.buffer + data).split(b"\n")
    for line in lines:
        message = parse_json(line, what=f"layer {worker.job.key}", limit_bytes=len(line))
        kind = message["kind"]
        if kind == "progress":
            if progress is not None:
                progress(worker.job.key, "Extracting", message["done"], worker.job.blob.length_bytes)
        elif kind == "trace":
            if trace is not None:
                trace(message["word"], message["text"])
        elif kind == "result":
            worker.result = UnpackedLayer(
                worker.job.key,
                DiffID.parse(message["diff_id"]),
                message["size_bytes"],
                message["tar_bytes"],
                message["entries"],
                message["warnings"],
            )
        else:
            raise rebuild_error(worker.job.key, message)
    return False


def _finish(worker: _Worker) -> UnpackedLayer:
    status = worker.end()
    if worker.result is None:
        # SIGBUS is what a mapped file gives that became shorter.
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number == 7:
            raise BadArchive(f"layer {worker.job.key}: its file was cut while it was read")
        how = f"by signal {number}" if number else f"with status {os.waitstatus_to_exitcode(status)}"
        raise MinidockError(f"layer {worker.job.key}: the unpacking process ended {how}", hint="run the command again")
    return worker.result


def rebuild_error(key: str, message: dict[str, Any]) -> MinidockError:
    """The error that a worker described, with the layer's key in front."""
    kind, hint = message["kind"], message["hint"]
    where = f"layer {key}"
    if kind == "DigestMismatch":
        return DigestMismatch(
            f"{where}: {message['what']}", expected=message["expected"], actual=message["actual"], hint=hint
        )
    if kind == "SyscallError":
        return SyscallError(f"{where}: {message['call']}", message["errno"], hint=hint)
    error_class = getattr(errors, kind, MinidockError)
    error: MinidockError = error_class(f"{where}: {message['message']}", hint=hint)
    return error


def _start(job: UnpackJob, wants_trace: bool) -> _Worker:
    from minidock.linux import cdata
    from minidock.store import unpack_worker

    prctl = cdata.function("prctl", cdata.c_int)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(read_end)
        os.close(write_end)
        raise SyscallError("fork()", error.errno or 0) from None
    if pid == 0:
        prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        os.close(read_end)
        _work(unpack_worker, job, write_end, wants_trace)
    os.close(write_end)
    return _Worker(job, pid, read_end)


def _encode(message: dict[str, Any]) -> str:
    return encode_json(message).decode("utf-8", "replace")


def _work(unpack_worker: Any, job: UnpackJob, pipe: int, wants_trace: bool) -> NoReturn:
    """The forked process's whole life."""
    try:
        import _signal as signal  # type: ignore[import-not-found]
        import gc

        gc.disable()
        # SIGBUS is how a mapped file that was cut announces itself; its handler in a parent must not speak for us.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGBUS):
            signal.signal(number, signal.SIG_DFL)
        encode: Callable[[dict[str, Any]], str] = _encode
        if wants_trace:
            # What this costs to load is nothing then, and it keeps the bytes of any path.
            from json import dumps

            encode = dumps

        def send(message: dict[str, Any]) -> None:
            data = memoryview(encode(message).encode("utf-8") + b"\n")
            while data:
                data = data[os.write(pipe, data) :]

        def report(done: int) -> None:
            send({"kind": "progress", "done": done})

        def trace_line(word: str, text: str) -> None:
            send({"kind": "trace", "word": word, "text": f"{job.key}: {text}"})

        try:
            # Asked while the archive's path still leads to it.
            source = job.blob.describe() if wants_trace else ""
            unpacker = unpack_worker.LayerUnpacker(job, report, trace_line if wants_trace else None)
            unpack_worker.enter_layer(job.diff_fd)
            result = unpacker.run()
            if wants_trace:
                text = f"# sha256 of {result['tar_bytes']} bytes of tar: diff_id = {result['diff_id']}"
                if source:
                    text = f"{source} | sha256sum  # diff_id = {result['diff_id']}"
                send({"kind": "trace", "word": "hash", "text": text})
            send({"kind": "result", **result})
        except BaseException as error:  # noqa: BLE001 - a forked process has nobody above it
            send(unpack_worker.describe_error(error))
    finally:
        os._exit(0)
