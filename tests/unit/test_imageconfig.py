"""Image configs: the bytes are kept, every value is checked once, and new ones are written as Docker writes them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidock.errors import BadConfig
from minidock.formats.imageconfig import ImageConfig, encode_config, order_run_config

DIFF = "sha256:" + "a" * 64


def document(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-02T03:04:05.6Z",
        "config": {"Env": ["A=b"], "Cmd": ["sh"]},
        "history": [{"created": "2026-01-02T03:04:05.6Z", "created_by": "one"}],
        "rootfs": {"type": "layers", "diff_ids": [DIFF]},
    }
    base.update(changes)
    return base


def parse(**changes: Any) -> ImageConfig:
    return ImageConfig.parse(json.dumps(document(**changes)).encode()).validate()


def test_the_image_id_is_the_hash_of_the_bytes_as_given() -> None:
    raw = b' {"os" : "linux",\n"rootfs":{"diff_ids":[],"type":"layers"} }\n'
    config = ImageConfig.parse(raw)
    assert config.raw is raw
    assert config.image_id == "sha256:" + hashlib.sha256(raw).hexdigest()


def test_the_values_are_typed() -> None:
    config = parse(
        author="me",
        variant="v8",
        config={
            "Env": ["PATH=/bin", "X="],
            "Entrypoint": ["/e", "x"],
            "Cmd": None,
            "WorkingDir": "/w",
            "User": "1:2",
            "Labels": {"k": "v", "n": None},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000-8010": {}},
            "Volumes": {"/v": {}},
            "StopSignal": "SIGQUIT",
            "StopTimeout": 3,
            "Healthcheck": {"Test": ["CMD", "/ok"], "Interval": 5_000_000_000, "Retries": 2},
        },
    )
    run = config.config
    assert (run.env, run.entrypoint, run.cmd) == (["PATH=/bin", "X="], ["/e", "x"], None)
    assert (run.workdir, run.user, run.labels) == ("/w", "1:2", {"k": "v", "n": ""})
    assert (run.exposed_ports, run.volumes) == (["53/udp", "80/tcp", "8000-8010"], ["/v"])
    assert (run.stop_signal, run.stop_timeout_s) == ("SIGQUIT", 3)
    assert run.healthcheck is not None
    assert (run.healthcheck.test, run.healthcheck.interval_ns, run.healthcheck.retries) == (
        ["CMD", "/ok"],
        5 * 10**9,
        2,
    )
    assert (config.architecture, config.os, config.variant, config.author) == ("amd64", "linux", "v8", "me")
    assert config.created_ns == 1_767_323_045_600_000_000
    assert [(step.created_by, step.empty_layer) for step in config.history] == [("one", False)]


def test_absent_and_null_mean_the_same() -> None:
    for changes in ({}, {"config": None, "history": None, "created": None, "author": None, "container_config": None}):
        base = {"rootfs": {"type": "layers", "diff_ids": []}, **changes}
        config = ImageConfig.parse(json.dumps(base).encode()).validate()
        assert (config.config.env, config.config.cmd, config.history, config.created_ns) == ([], None, [], None)


def test_a_bare_string_is_one_word_as_in_go() -> None:
    config = parse(config={"Entrypoint": "/bin/x", "Cmd": "a b"})
    assert (config.config.entrypoint, config.config.cmd) == (["/bin/x"], ["a b"])


def test_the_last_of_two_equal_keys_wins() -> None:
    raw = b'{"rootfs":{"type":"layers","diff_ids":[]},"config":{"User":"a"},"config":{"User":"b"}}'
    assert ImageConfig.parse(raw).config.user == "b"


def test_half_a_surrogate_pair_is_read_as_go_reads_it() -> None:
    raw = b'{"rootfs":{"type":"layers","diff_ids":[]},"config":{"Env":["A=\\ud800","B=\\ud83d\\ude00"]}}'
    config = ImageConfig.parse(raw)
    assert config.config.env == ["A=\ufffd", "B=\U0001f600"]
    assert "\ufffd".encode() in encode_config(config.document)


BAD_CONFIGS: dict[str, Any] = {
    "healthcheck CMD without words": {"Healthcheck": {"Test": ["CMD"]}},
    "healthcheck CMD-SHELL without words": {"Healthcheck": {"Test": ["CMD-SHELL"]}},
    "healthcheck string": {"Healthcheck": {"Test": "CMD x"}},
    "healthcheck list": {"Healthcheck": ["CMD"]},
    "healthcheck negative": {"Healthcheck": {"Test": ["NONE"], "Interval": -1}},
    "healthcheck fraction": {"Healthcheck": {"Test": ["NONE"], "Retries": 1.5}},
    "healthcheck huge": {"Healthcheck": {"Interval": 1 << 70}},
    "env string": {"Env": "A=b"},
    "env object": {"Env": {"A": "b"}},
    "env number": {"Env": [1]},
    "env without name": {"Env": ["=x"]},
    "env empty": {"Env": [""]},
    "env NUL": {"Env": ["A=\0"]},
    "cmd number": {"Cmd": 5},
    "cmd of numbers": {"Cmd": ["x", 5]},
    "cmd of null": {"Cmd": [{}]},
    "entrypoint object": {"Entrypoint": {}},
    "entrypoint NUL": {"Entrypoint": ["a\0b"]},
    "ports list": {"ExposedPorts": ["80/tcp"]},
    "ports word": {"ExposedPorts": {"http/tcp": {}}},
    "ports too big": {"ExposedPorts": {"65536/tcp": {}}},
    "ports backwards": {"ExposedPorts": {"20-10/tcp": {}}},
    "ports protocol": {"ExposedPorts": {"80/icmp": {}}},
    "ports negative": {"ExposedPorts": {"-1/tcp": {}}},
    "ports value": {"ExposedPorts": {"80/tcp": 1}},
    "volumes list": {"Volumes": ["/v"]},
    "volumes empty": {"Volumes": {"": {}}},
    "labels list": {"Labels": ["a"]},
    "labels number": {"Labels": {"a": 1}},
    "stopsignal number": {"StopSignal": 9},
    "stoptimeout text": {"StopTimeout": "9"},
    "user number": {"User": 0},
    "user NUL": {"User": "a\0"},
    "workdir list": {"WorkingDir": ["/"]},
    "workdir NUL": {"WorkingDir": "/\0"},
    "tty number": {"Tty": 1},
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_a_bad_value_is_refused_in_one_printable_line(name: str) -> None:
    for key in ("config", "container_config"):
        with pytest.raises(BadConfig) as caught:
            parse(**{key: BAD_CONFIGS[name]})
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"rootfs": None},
        {"rootfs": []},
        {"rootfs": {"type": "tree", "diff_ids": []}},
        {"rootfs": {"type": "layers", "diff_ids": DIFF}},
        {"rootfs": {"type": "layers", "diff_ids": [5]}},
        {"rootfs": {"type": "layers", "diff_ids": ["sha256:../../x"]}},
        {"rootfs": {"type": "layers", "diff_ids": ["md5:" + "a" * 32]}},
        {"rootfs": {"type": "layers", "diff_ids": [DIFF.upper()]}},
        {"config": []},
        {"config": "x"},
        {"history": {}},
        {"history": [None, 3]},
        {"history": [{}, {}]},
        {"history": [{"empty_layer": "yes"}]},
        {"history": [{"created": "yesterday"}]},
        {"created": 5},
        {"created": "2026"},
        {"os": 1},
        {"architecture": ["amd64"]},
    ],
)
def test_a_bad_document_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadConfig) as caught:
        parse(**changes)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"\xff\xfe",
        b"{}x",
        b"[" * 200_000,
        b'{"config":' * 100_000,
        b'{"rootfs":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"rootfs":NaN}',
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadConfig):
        ImageConfig.parse(raw)


def test_the_size_is_capped_and_ten_megabytes_of_labels_are_below_it() -> None:
    labels = {"big": "x" * (10 << 20)}
    assert parse(config={"Labels": labels}).config.labels == labels
    with pytest.raises(BadConfig, match="limit"):
        ImageConfig.parse(json.dumps(document(author="x" * (16 << 20))).encode())


def test_a_listing_is_not_stopped_by_a_value_it_does_not_show() -> None:
    config = ImageConfig.parse(json.dumps(document(config={"Env": "bad"})).encode())
    assert config.diff_ids == [DIFF]
    with pytest.raises(BadConfig):
        _ = config.config


def test_a_new_config_has_dockers_bytes() -> None:
    # What dockerd 20.10 wrote for `docker commit -a 'Me <me@x>' -m 'msg here'`, shortened.
    expected = (
        b'{"architecture":"amd64","author":"Me \\u003cme@x\\u003e","config":{"Hostname":"","Domainname":"","User":"",'
        b'"AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"ExposedPorts":{"53/udp":{},"80/tcp":{}},'
        b'"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":["A=1"],"Cmd":["sh","-c","a \\u0026\\u0026 b"],'
        b'"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{},'
        b'"StopSignal":"SIGTERM"},"created":"2026-01-02T03:04:05.6Z","history":[{"created":"2026-01-02T03:04:05.6Z",'
        b'"author":"Me \\u003cme@x\\u003e","created_by":"sh","comment":"msg here"},{"created":"2026-01-02T03:04:05.6Z",'
        b'"empty_layer":true}],"os":"linux","rootfs":{"type":"layers","diff_ids":["' + DIFF.encode() + b'"]}}'
    )
    moment = "2026-01-02T03:04:05.6Z"
    written = encode_config(
        {
            "rootfs": {"diff_ids": [DIFF], "type": "layers"},
            "os": "linux",
            "history": [
                {"comment": "msg here", "created_by": "sh", "author": "Me <me@x>", "created": moment},
                {"empty_layer": True, "created": moment, "comment": ""},
            ],
            "created": moment,
            "config": {
                "StopSignal": "SIGTERM",
                "Labels": {},
                "Cmd": ["sh", "-c", "a && b"],
                "Env": ["A=1"],
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Unknown": 1,
            },
            "author": "Me <me@x>",
            "architecture": "amd64",
        },
        author_first=True,
    )
    assert written == expected
    newer = encode_config({"history": [{"author": "a", "created_by": "b", "created": moment}]})
    assert newer == b'{"history":[{"created":"2026-01-02T03:04:05.6Z","created_by":"b","author":"a"}]}'


def test_ordering_a_run_config_twice_changes_nothing() -> None:
    once = order_run_config({"Healthcheck": {"Retries": 1, "Test": ["NONE"]}, "Cmd": "x", "StopTimeout": 0})
    assert once == order_run_config(once)
    assert list(once["Healthcheck"]) == ["Test", "Retries"]
    assert once["Cmd"] == ["x"]
    assert once["StopTimeout"] == 0


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(
    "Env Cmd Entrypoint Labels ExposedPorts Volumes User WorkingDir StopSignal StopTimeout Healthcheck Shell OnBuild "
    "Tty Hostname".split()
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(_KEYS, _JSON, max_size=4), st.dictionaries(st.sampled_from(list(document())), _JSON, max_size=2))
def test_any_json_is_read_or_refused(config: dict[str, Any], changes: dict[str, Any]) -> None:
    raw = json.dumps({**document(config=config), **changes}).encode()
    try:
        parsed = ImageConfig.parse(raw).validate()
    except BadConfig:
        return
    for entry in parsed.config.env:
        assert "\0" not in entry
        assert entry[0] != "="
    # Whatever passed can be written again, and reads the same.
    again = json.loads(encode_config(parsed.document))
    assert ImageConfig.parse(json.dumps(again).encode()).validate().config.env == parsed.config.env


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with pytest.raises(BadConfig):
        ImageConfig.parse(raw)


def test_a_hundred_thousand_damaged_configs_are_read_or_refused() -> None:
    """Values swapped for values of other kinds, keys moved, bytes flipped: never another error than BadConfig."""
    chance = random.Random(12)
    raw = json.dumps(
        document(config={"Env": ["A=b"], "Cmd": ["sh"], "Labels": {"a": "b"}, "Healthcheck": {"Test": ["CMD", "x"]}})
    ).encode()
    tokens = [raw[start:end] for start, end in _spans(raw)]
    junk = [
        b"null",
        b"[]",
        b"{}",
        b'""',
        b"-1",
        b"1e999",
        b"true",
        b'"\\ud800"',
        b"[[",
        b'{"a":',
        b",",
        b'"CMD"',
        b"\xff",
    ]
    accepted = 0
    for _ in range(100_000):
        damaged = list(tokens)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.choice(junk if chance.random() < 0.5 else tokens)
        try:
            ImageConfig.parse(b"".join(damaged)).validate()
            accepted += 1
        except BadConfig:
            continue
    assert 100 < accepted < 50_000


def _spans(raw: bytes) -> list[tuple[int, int]]:
    """The tokens of a JSON document: strings whole, all else byte by byte."""
    return [match.span() for match in re.finditer(rb'"(?:[^"\\\\]|\\\\.)*"|.', raw)]
