"""The json-file log: pieces, escapes, reading back, the tail."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from minidock.runtime.logreading import LogRecord, join_records, parse_record, parse_records, read_records, tail_offset
from minidock.runtime.logs import PIECE_BYTES, LogFile, StreamLog
from minidock.runtime.tty import DetachKeys

MOMENT = 1_795_468_895_122_090_752


def written(*chunks: bytes, finish: bool = True) -> bytes:
    """The log that these reads of one stream make."""
    out: list[bytes] = []
    log = StreamLog("stdout", out.append)
    for chunk in chunks:
        log.feed(chunk, MOMENT)
    if finish:
        log.finish()
    return b"".join(out)


def test_a_line_as_dockerd_wrote_it() -> None:
    assert written(b"a\tb\033\n\303 x\n") == (
        b'{"log":"a\\u0009b\\u001b\\n","stream":"stdout","time":"2026-11-23T21:21:35.122090752Z"}\n'
        b'{"log":"\\ufffd x\\n","stream":"stdout","time":"2026-11-23T21:21:35.122090752Z"}\n'
    )


def test_escapes_are_go_s() -> None:
    line = written('<a>&"\\\r\b\u2028é\x7f\n'.encode())
    assert line.startswith('{"log":"\\u003ca\\u003e\\u0026\\"\\\\\\r\\u0008\\u2028é\x7f\\n"'.encode())


def test_long_lines_come_in_pieces_of_16_kib() -> None:
    records = [json.loads(line)["log"] for line in written(b"x" * (2 * PIECE_BYTES + 5) + b"\ny\n").splitlines()]
    assert [len(record) for record in records] == [PIECE_BYTES, PIECE_BYTES, 6, 2]
    assert [record.endswith("\n") for record in records] == [False, False, True, True]


def test_a_line_of_exactly_one_piece_ends_in_an_empty_one() -> None:
    records = [json.loads(line)["log"] for line in written(b"x" * PIECE_BYTES + b"\n").splitlines()]
    assert [len(record) for record in records] == [PIECE_BYTES, 1]


def test_an_unfinished_line_waits_for_its_end() -> None:
    assert written(b"half", finish=False) == b""
    assert json.loads(written(b"half", b" done\n"))["log"] == "half done\n"
    assert json.loads(written(b"half"))["log"] == "half"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=10))
def test_no_byte_of_ascii_output_is_lost(chunks: list[bytes]) -> None:
    plain = [bytes(byte & 0x7F for byte in chunk) for chunk in chunks]
    records = [parse_record(line) for line in written(*plain).splitlines()]
    assert b"".join(record.data for record in records if record) == b"".join(plain)
    assert all(
        record is not None and record.time_ns == MOMENT for record in records if record and record.data[-1:] == b"\n"
    )


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_every_record_is_valid_json_of_valid_utf8(data: bytes) -> None:
    text = "".join(json.loads(line)["log"] for line in written(data).decode("utf-8").split("\n") if line)
    # Go decodes byte by byte: one replacement for each byte that fits nowhere.
    expected = data.decode("utf-8", "surrogateescape")
    assert text == "".join("\ufffd" if "\udc80" <= letter <= "\udcff" else letter for letter in expected)


def test_tail_and_damaged_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path))
    log = StreamLog("stderr", file.write)
    log.feed(b"".join(b"line %d\n" % number for number in range(5000)), MOMENT)
    assert os.stat(path).st_mode & 0o777 == 0o640
    with open(path, "rb") as reader:
        fd = reader.fileno()
        for wanted in (0, 1, 3, 4999, 5000, 6000):
            found = list(read_records(fd, offset=tail_offset(fd, wanted)))
            assert [record.data for record in found] == [
                b"line %d\n" % number for number in range(max(0, 5000 - wanted), 5000)
            ]
        file.write(b"not json\n{}\n")
        log.feed(b"after\n", MOMENT)
        assert [record.data for record in read_records(fd, offset=tail_offset(fd, 3))] == [b"after\n"]
    os.close(file.fd)


def test_joined_records_lose_nothing_and_keep_streams_and_moments_apart() -> None:
    records = [
        LogRecord(stream, moment, b"%d\n" % number)
        for number, (stream, moment) in enumerate([("a", 1), ("a", 1), ("b", 1), ("a", 1), ("a", 2), ("a", 2)])
    ]
    joined = [(record.stream, record.time_ns, record.data) for record in join_records(records)]
    assert joined == [("a", 1, b"0\n1\n"), ("b", 1, b"2\n"), ("a", 1, b"3\n"), ("a", 2, b"4\n5\n")]
    assert join_records([]) == []


def test_a_line_that_would_break_the_block_out_of_its_array_is_left_out() -> None:
    good = b'{"log":"x\\n","stream":"stdout","time":"2026-11-23T21:21:35Z"}'
    for bad in (b"", b"1", b"],[", b'{"log":1,"stream":"stdout","time":"x"}', good + b"," + good, b"\xff"):
        assert [record.data for record in parse_records([good, bad, good])] == [b"x\n", b"x\n"]


def test_detach_keys() -> None:
    for typed, passed, detached in (
        ([b"abc"], b"abc", False),
        ([b"a\x10\x11b"], b"a", True),
        ([b"\x10", b"\x11"], b"", True),
        ([b"\x10x"], b"\x10x", False),
        ([b"\x10\x10\x11"], b"\x10", True),
        ([b"\x11\x10"], b"\x11", False),
    ):
        keys = DetachKeys()
        assert b"".join(keys.filter(part) for part in typed if not keys.detached) == passed
        assert keys.detached is detached
