"""The json-file log read back, from any record on, and across its rotation; see logs.py for how it is written."""

from __future__ import annotations

import os

from minidock.errors import FormatError
from minidock.formats.gojson import parse_json_any, parse_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_BLOCK_BYTES = 64 << 10
_MAX_RECORD_BYTES = 1 << 20


class LogRecord:
    """One record read back.

    Shape: stream `stdout` or `stderr`; data with its newline unless the line goes on; attributes as
           written, None without
    """

    __slots__ = ("attributes", "data", "stream", "time_ns")

    def __init__(self, stream: str, time_ns: int, data: bytes, attributes: dict[str, Any] | None = None) -> None:
        self.stream = stream
        self.attributes = attributes
        self.time_ns = time_ns
        self.data = data


def parse_record(line: bytes) -> LogRecord | None:
    """Read one line of the log; None for one that is damaged, which docker skips too."""
    try:
        return _record_of(parse_json_any(line, what="log", limit_bytes=_MAX_RECORD_BYTES))
    except (FormatError, KeyError, TypeError, AttributeError):
        return None


def _record_of(value: Any) -> LogRecord:
    return _records_of([value])[0]


def parse_records(lines: list[bytes]) -> list[LogRecord]:
    """Read many lines at the price of one call of the JSON scanner; damaged ones are left out."""
    block = b"[" + b",".join(lines) + b"]"
    try:
        values = parse_json_any(block, what="log", limit_bytes=len(block))
        if len(values) == len(lines):
            return _records_of(values)
    except (FormatError, KeyError, TypeError, AttributeError):
        pass
    return [record for line in lines if (record := parse_record(line)) is not None]


def _records_of(values: list[Any]) -> list[LogRecord]:
    records = []
    text, time_ns = "", 0
    for value in values:
        # Lines that were read together have one time; reading it is most of the work.
        if value["time"] != text:
            text = value["time"]
            time_ns = parse_time(text)
        data = value["log"].encode("utf-8", "replace")
        records.append(LogRecord(str(value["stream"]), time_ns, data, value.get("attrs")))
    return records


def join_records(records: list[LogRecord]) -> list[LogRecord]:
    """Neighbours of one stream and one moment made one, for those who do not count lines."""
    joined: list[LogRecord] = []
    parts: list[bytes] = []
    for record in records:
        last = joined[-1] if joined else None
        if last is not None and last.stream == record.stream and last.time_ns == record.time_ns:
            parts.append(record.data)
            continue
        if last is not None:
            last.data = b"".join(parts)
        joined.append(LogRecord(record.stream, record.time_ns, b""))
        parts = [record.data]
    if joined:
        joined[-1].data = b"".join(parts)
    return joined


def tail_offset(fd: int, records: int) -> int:
    """Where the last so many records of the file begin."""
    size = position = os.fstat(fd).st_size
    # The newline that ends the last record is not one that starts another.
    wanted = records + 1
    while position > 0:
        length = min(_BLOCK_BYTES, position)
        position -= length
        block = os.pread(fd, length, position)
        found = len(block)
        while (found := block.rfind(b"\n", 0, found)) >= 0:
            wanted -= 1
            if wanted == 0:
                return position + found + 1
    return 0 if records else size


def count_records(fd: int) -> int:
    """How many records the file has."""
    count = position = 0
    while block := os.pread(fd, _BLOCK_BYTES, position):
        count += block.count(b"\n")
        position += len(block)
    return count


def read_records(
    fd: int, *, offset: int = 0, wait: Callable[[], bool] | None = None, join: bool = False
) -> Iterator[LogRecord]:
    """The records from offset on.

    Shape: join: those of one stream and one moment may come as one; wait blocks until the file may have grown and
           says whether it may grow again; None: read once
    """
    rest = b""
    more = True
    while True:
        block = os.pread(fd, _BLOCK_BYTES, offset)
        if not block:
            if wait is None or not more:
                return
            more = wait()
            continue
        offset += len(block)
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        if len(rest) > _MAX_RECORD_BYTES:
            rest = b""
        records = parse_records(lines) if lines else []
        yield from join_records(records) if join else records


def newer_log(path: str, inode: int) -> str | None:
    """The file that came after the one with this inode when the log was rotated; None when that is the newest.

    Shape: inode 0, or that of a file which is not kept any more: the oldest there is
    """
    newer = None
    number = 0
    while True:
        name = f"{path}.{number}" if number else path
        try:
            found = os.stat(name, follow_symlinks=False).st_ino
        except FileNotFoundError:
            return newer
        if found == inode:
            return newer
        newer = name
        number += 1
