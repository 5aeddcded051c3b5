"""The json-file log: one JSON object a line, written as Docker's engine writes it.

    {"log":"hello\\n","stream":"stdout","time":"2026-11-23T15:48:39.676877196Z"}

A line longer than 16 KiB comes in pieces; only the last piece's text ends in a newline.
Source: moby daemon/logger/copier.go; daemon/logger/jsonfilelog/jsonlog/jsonlogbytes.go
"""

from __future__ import annotations

import os
import time

from minidock.errors import FormatError
from minidock.formats.gojson import format_time, parse_json_any, parse_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

PIECE_BYTES = 16 << 10
_BLOCK_BYTES = 64 << 10
_MAX_RECORD_BYTES = 1 << 20
# What the writer reads or keeps apart from its fd: errors of a full disk are no reason to stop the container.
_ESCAPES = {code: f"\\u00{code:02x}" for code in range(32)}
_ESCAPES.update({ord(letter): f"\\u00{ord(letter):02x}" for letter in "<>&"})
_ESCAPES.update({ord("\n"): "\\n", ord("\r"): "\\r", ord('"'): '\\"', ord("\\"): "\\\\"})
_ESCAPES.update({0x2028: "\\u2028", 0x2029: "\\u2029"})
_ESCAPES.update(dict.fromkeys(range(0xDC80, 0xDD00), "\\ufffd"))


def encode_text(data: bytes) -> str:
    """The inside of a JSON string for bytes of any kind; what is no UTF-8 becomes \\ufffd, byte for byte."""
    return data.decode("utf-8", "surrogateescape").translate(_ESCAPES)


class StreamLog:
    """One stream's way into the log: bytes in, records out, an unfinished line kept back; attributes as in LogFile."""

    __slots__ = ("_attributes", "_piece_time", "_rest", "name", "write")

    def __init__(self, name: str, write: Callable[[bytes], None], attributes: str = "") -> None:
        self.name = name
        self._attributes = attributes
        self.write = write
        self._rest = b""
        self._piece_time = ""

    def unfinished(self) -> tuple[str, bytes, str]:
        """The stream's name, the beginning of a line that waits for its end, and the time of its first piece."""
        return self.name, self._rest, self._piece_time

    def go_on(self, rest: bytes, piece_time: str) -> None:
        """Take up an unfinished line."""
        self._rest, self._piece_time = rest, piece_time

    def feed(self, data: bytes, time_ns: int) -> None:
        """Take what the container wrote at this moment."""
        stamp = format_time(time_ns)
        records: list[str] = []
        pending = self._rest + data if self._rest else data
        position = 0
        while True:
            end = pending.find(b"\n", position, position + PIECE_BYTES)
            if end >= 0:
                records.append(self._record(pending[position : end + 1], self._piece_time or stamp))
                self._piece_time = ""
                position = end + 1
            elif len(pending) - position >= PIECE_BYTES:
                self._piece_time = self._piece_time or stamp
                records.append(self._record(pending[position : position + PIECE_BYTES], self._piece_time))
                position += PIECE_BYTES
            else:
                break
        self._rest = pending[position:]
        if records:
            self.write("".join(records).encode("utf-8"))

    def finish(self) -> None:
        """The stream has ended: what is left becomes a last, unfinished record."""
        if self._rest:
            stamp = self._piece_time or format_time(time.time_ns())
            self.write(self._record(self._rest, stamp).encode("utf-8"))
            self._rest = b""

    def _record(self, text: bytes, stamp: str) -> str:
        return f'{{"log":"{encode_text(text)}","stream":"{self.name}",{self._attributes}"time":"{stamp}"}}\n'


class LogFile:
    """A container's log, open for appending.

    Shape: attributes: what each record carries besides, `"attrs":{…},` or nothing; max_bytes: a file that has
           come to this size makes room for a new one, 0 for never; max_files: so many files are kept, the older ones as
           `<path>.1`, `<path>.2` and so on; fd: the file, if it is open already
    """

    __slots__ = ("_max_bytes", "_max_files", "_path", "_size_bytes", "attributes", "fd")

    def __init__(
        self, path: str, max_bytes: int = 0, max_files: int = 1, attributes: str = "", *, fd: int = -1
    ) -> None:
        self.attributes = attributes
        self._path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self.fd = fd
        if fd < 0:
            self._open()
        self._size_bytes = os.fstat(self.fd).st_size if max_bytes else 0

    def settings(self) -> tuple[str, int, int, str]:
        """What makes the same log, of the same open file."""
        return self._path, self._max_bytes, self._max_files, self.attributes

    def _open(self) -> None:
        self.fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        os.fchmod(self.fd, 0o640)

    def write(self, data: bytes) -> None:
        """Append; on a full disk the records are lost and the container goes on, as with docker."""
        if not self._max_bytes:
            self._append(data)
            return
        for record in data.splitlines(keepends=True):
            if self._size_bytes >= self._max_bytes:
                self._rotate()
            self._append(record)
            self._size_bytes += len(record)

    def _rotate(self) -> None:
        """Source: moby daemon/logger/loggerutils/logfile.go, rotate"""
        try:
            for number in range(self._max_files - 1, 0, -1):
                older = f"{self._path}.{number - 1}" if number > 1 else self._path
                if os.path.lexists(older):
                    os.rename(older, f"{self._path}.{number}")
            if self._max_files == 1:
                os.ftruncate(self.fd, 0)
                self._size_bytes = 0
                return
            os.close(self.fd)
            self._open()
            self._size_bytes = os.fstat(self.fd).st_size
        except OSError:
            # Without room for a new file the old one goes on.
            self._size_bytes = 0

    def _append(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError:
            return


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


# linux/inotify.h
GROWS = 0x2
# A directory in which a file comes, goes or is replaced, or which is itself moved or removed.
CHANGES = 0x80 | 0x100 | 0x200 | 0x400 | 0x800


class Growth:
    """Waits until a file grows, or a directory changes, or a process ends, by inotify(7) and a pidfd.

    Shape: mask GROWS or CHANGES
    """

    __slots__ = ("_poll", "fd", "pidfd")

    def __init__(self, path: str, pidfd: int, mask: int = GROWS) -> None:
        import select

        from minidock.linux import cdata
        from minidock.linux.libc import declare

        self.pidfd = pidfd
        self.fd = declare("inotify_init1", cdata.c_int)(os.O_CLOEXEC | os.O_NONBLOCK)
        add_watch = declare("inotify_add_watch", cdata.c_int, cdata.c_char_p, cdata.c_uint32)
        try:
            add_watch(self.fd, os.fsencode(path), mask)
        except OSError:
            os.close(self.fd)
            raise
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLIN)
        self._poll.register(pidfd, select.POLLIN)

    def wait(self) -> bool:
        """Block; False once the process has ended, after which one more look at the file is the last."""
        ready = [fd for fd, _ in self._poll.poll()]
        if self.fd in ready:
            try:
                os.read(self.fd, 4096)
            except BlockingIOError:
                pass
        return self.pidfd not in ready

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self.fd)
        os.close(self.pidfd)
