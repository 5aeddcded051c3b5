"""The json-file log: one JSON object a line, written as Docker's engine writes it.

    {"log":"hello\\n","stream":"stdout","time":"2026-11-23T15:48:39.676877196Z"}

A line longer than 16 KiB comes in pieces; only the last piece's text ends in a newline.
Source: moby daemon/logger/copier.go; daemon/logger/jsonfilelog/jsonlog/jsonlogbytes.go
"""

from __future__ import annotations

import os
import time

from minidock.formats.gojson import format_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES = 16 << 10
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
