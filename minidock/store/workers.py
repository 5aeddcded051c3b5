"""Jobs that read much, shared out among forked processes: one for each processor, each taking the next job.

A job gets `report(n)` to tell how far it is, and returns what JSON can hold. A pipe holds the numbers of the jobs, and
whoever is free reads one; so a large job never has a small one wait behind it.
"""

from __future__ import annotations

import os
import select

from minidock.errors import MinidockError, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

    Report: TypeAlias = Callable[[int], None]
    Job: TypeAlias = Callable[[Report], Any]

_NUMBER_BYTES = 4
# A pipe holds so many numbers without a reader.
_MAX_QUEUED = 8192
_REPORT_BYTES = 8 << 20


def run_jobs(jobs: Sequence[Job], *, workers: int = 0, progress: Callable[[int, int], None] | None = None) -> list[Any]:
    """Run all jobs, the first ones first.

    Shape:   workers: how many processes, 0 for one a processor; progress(job, n) hears what that job reported
    Returns: what each job returned, in the order of the jobs
    Raises:  StoreError with the message of a job that failed; the others are ended then
    """
    from json import loads

    count = min(workers or len(os.sched_getaffinity(0)), len(jobs))
    results: list[Any] = [None] * len(jobs)
    for first in range(0, len(jobs), _MAX_QUEUED):
        pool = _Pool(jobs, range(first, min(first + _MAX_QUEUED, len(jobs))), count)
        try:
            for line in pool.lines():
                number, kind, value = loads(line)
                if kind == "report":
                    if progress is not None:
                        progress(number, value)
                elif kind == "done":
                    results[number] = value
                else:
                    raise StoreError(value)
        finally:
            pool.close()
    return results


class _Pool:
    """Processes at work. Shape: pipes: pid by the descriptor that its answers come from"""

    __slots__ = ("_jobs", "_pipes", "_unfinished")

    def __init__(self, jobs: Sequence[Job], numbers: range, count: int) -> None:
        self._jobs = jobs
        self._pipes: dict[int, int] = {}
        self._unfinished = len(numbers)
        queue, give = os.pipe2(os.O_CLOEXEC)
        try:
            for number in numbers:
                os.write(give, number.to_bytes(_NUMBER_BYTES, "big"))
            os.close(give)
            give = -1
            for _ in range(count):
                answers, tell = os.pipe2(os.O_CLOEXEC)
                pid = os.fork()
                if not pid:
                    self._work(queue, tell)
                os.close(tell)
                self._pipes[answers] = pid
        finally:
            for handle in (queue, give):
                if handle >= 0:
                    os.close(handle)

    def _work(self, queue: int, tell: int) -> None:
        """A worker's whole life."""
        import signal
        from json import dumps

        def answer(number: int, kind: str, value: Any) -> None:
            data = memoryview(dumps([number, kind, value]).encode("ascii") + b"\n")
            while data:
                data = data[os.write(tell, data) :]

        number = 0
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            while data := os.read(queue, _NUMBER_BYTES):
                number = int.from_bytes(data, "big")
                value = self._jobs[number](_Reporter(number, answer))
                answer(number, "done", value)
        except MinidockError as error:
            answer(number, "failed", str(error))
        except OSError as error:
            answer(number, "failed", f"{error.filename or 'read'}: {error.strerror}")
        finally:
            os._exit(0)

    def lines(self) -> Any:
        """What the workers tell, line by line, until all jobs are done."""
        rest = dict.fromkeys(self._pipes, b"")
        while rest:
            for handle in select.select(list(rest), [], [])[0]:
                data = os.read(handle, 1 << 16)
                if not data:
                    del rest[handle]
                    continue
                *whole, rest[handle] = (rest[handle] + data).split(b"\n")
                self._unfinished -= sum(b'"done"' in line[:32] for line in whole)
                yield from whole
        if self._unfinished:
            raise StoreError("a worker process ended before its work was done")

    def close(self) -> None:
        """End what still works."""
        import signal

        for handle, pid in self._pipes.items():
            os.close(handle)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._pipes.clear()


class _Reporter:
    """Passes a growing number on now and then."""

    __slots__ = ("_answer", "_number", "_told")

    def __init__(self, number: int, answer: Callable[[int, str, Any], None]) -> None:
        self._number = number
        self._answer = answer
        self._told = 0

    def __call__(self, done: int) -> None:
        if done - self._told >= _REPORT_BYTES:
            self._told = done
            self._answer(self._number, "report", done)
