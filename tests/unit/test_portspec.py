"""Ports as docker reads them, and its documents and columns about them."""

from __future__ import annotations

import pytest

from minidock.errors import UsageError
from minidock.formats.portspec import (
    PublishedPort,
    port_documents,
    ports_document,
    ports_text,
    published_of,
    requests_of,
)

# -p, then {port: [(host ip, host port)]}
SPECS = {
    "80": {"80/tcp": [("", "")]},
    "80/": {"80/tcp": [("", "")]},
    "80/TCP": {"80/tcp": [("", "")]},
    ":80": {"80/tcp": [("", "")]},
    "::80": {"80/tcp": [("", "")]},
    "8080:80": {"80/tcp": [("", "8080")]},
    "0:80": {"80/tcp": [("", "0")]},
    "8080:80/udp": {"80/udp": [("", "8080")]},
    "96:80/sctp": {"80/sctp": [("", "96")]},
    "127.0.0.1:8080:80": {"80/tcp": [("127.0.0.1", "8080")]},
    "127.0.0.1::80": {"80/tcp": [("127.0.0.1", "")]},
    "[::1]:8080:80": {"80/tcp": [("::1", "8080")]},
    "8000-8001:80-81": {"80/tcp": [("", "8000")], "81/tcp": [("", "8001")]},
    "80-81": {"80/tcp": [("", "")], "81/tcp": [("", "")]},
    "8000-8010:80": {"80/tcp": [("", "8000-8010")]},
    "published=98,target=80": {"80/tcp": [("", "98")]},
    "mode=host,published=97,target=80,protocol=udp": {"80/udp": [("", "97")]},
    "target=80": {"80/tcp": [("", "")]},
}

# -p, then docker's message
WRONG = {
    "": "No port specified: <empty>",
    "a:80": "Invalid hostPort: a",
    "a.b": "Invalid containerPort: a.b",
    " 80": "Invalid containerPort:  80",
    "3-1": "Invalid containerPort: 3-1",
    "70000:80": "Invalid hostPort: 70000",
    "80:": "No port specified: 80:<empty>",
    "80/foo": "Invalid proto: foo",
    "1-2:80-82": "Invalid ranges specified for container and host Ports: 80-82 and 1-2",
    "x.y:80:80": "Invalid ip address: x.y",
    "[fe80::1%eth0]:1:1": "Invalid ip address: fe80::1%eth0",
    "::1:8089:80": "Invalid ip address ::1: address ::1:: too many colons in address",
    "=": "No port specified: :/tcp<empty>",
    "published=1,target": "invalid publish opts format (should be name=value but got 'target')",
}

WRONG_EXPOSE = {
    "80:80": "invalid port format for --expose: 80:80",
    "z": 'invalid range format for --expose: z, error: strconv.ParseUint: parsing "z": invalid syntax',
}


@pytest.mark.parametrize("text", SPECS)
def test_specs(text: str) -> None:
    exposed, bindings = port_documents([text], [])
    assert exposed == {key: {} for key in SPECS[text]}
    found = {key: [(one["HostIp"], one["HostPort"]) for one in some] for key, some in bindings.items()}
    assert found == SPECS[text]


@pytest.mark.parametrize("text", WRONG)
def test_wrong_specs(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        port_documents([text], [])
    assert caught.value.message == WRONG[text]


@pytest.mark.parametrize("text", WRONG_EXPOSE)
def test_wrong_expose(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        port_documents([], [text])
    assert caught.value.message == WRONG_EXPOSE[text]


def test_expose() -> None:
    exposed, bindings = port_documents([], ["70-72", "99/udp"])
    assert list(exposed) == ["70/tcp", "71/tcp", "72/tcp", "99/udp"]
    assert bindings == {}


def test_requests() -> None:
    """Ports of one's own come first, so that one picked at random cannot be one of them."""
    _, bindings = port_documents(["80", "8000-8010:81", "127.0.0.1:8080:82", "0:83/udp"], [])
    exposed: dict[str, object] = {key: {} for key in (*bindings, "90/tcp")}
    requests = requests_of(bindings, exposed, publish_all=True)
    assert [(one.container_port, one.first_port, one.last_port, one.host_ip) for one in requests] == [
        (82, 8080, 8080, "127.0.0.1"),
        (81, 8000, 8010, ""),
        (80, 0, 0, ""),
        (83, 0, 0, ""),
        (90, 0, 0, ""),
    ]
    assert len(requests_of(bindings, exposed, publish_all=False)) == 4


@pytest.mark.parametrize(
    "bindings", [{"x/tcp": []}, {"80/foo": []}, {"80/tcp": [{"HostPort": "x"}]}, {"80/tcp": [{"HostIp": "z"}]}]
)
def test_requests_of_a_damaged_document(bindings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        requests_of(bindings, {}, publish_all=False)


def test_documents_of_a_running_container() -> None:
    published = [PublishedPort("tcp", "", 8300, 80), PublishedPort("tcp", "127.0.0.1", 8301, 80)]
    document = ports_document({"80/tcp": {}, "81/udp": {}}, published)
    assert document == {
        "80/tcp": [
            {"HostIp": "127.0.0.1", "HostPort": "8301"},
            {"HostIp": "0.0.0.0", "HostPort": "8300"},
            {"HostIp": "::", "HostPort": "8300"},
        ],
        "81/udp": None,
    }
    assert [repr(one) for one in published_of(document)] == [
        "127.0.0.1:8301->80/tcp",
        "0.0.0.0:8300->80/tcp",
        ":::8300->80/tcp",
    ]
    assert published_of({"x": [None, {"HostPort": "1"}], "80/tcp": [{"HostPort": "y"}, "z"]}) == []


# -p and --expose (with - before it), then the PORTS column of Docker 20.10
COLUMNS = {
    ("53:53/udp", "53:53", "-80", "-81/udp"): (
        "0.0.0.0:53->53/tcp, 0.0.0.0:53->53/udp, :::53->53/tcp, :::53->53/udp, 80/tcp, 81/udp"
    ),
    ("-70-72", "-80", "-81/udp", "-99/udp"): "70-72/tcp, 81/udp, 80/tcp, 99/udp",
    ("8300:80", "8301:80", "32776:80", "-81/udp"): (
        "81/udp, 0.0.0.0:8300->80/tcp, 0.0.0.0:8301->80/tcp, 0.0.0.0:32776->80/tcp, "
        ":::8300->80/tcp, :::8301->80/tcp, :::32776->80/tcp"
    ),
    ("8000-8001:80-81",): ("0.0.0.0:8000->80/tcp, :::8000->80/tcp, 0.0.0.0:8001->81/tcp, :::8001->81/tcp"),
    ("80-82:80-82", "127.0.0.1:84:84"): "0.0.0.0:80-82->80-82/tcp, :::80-82->80-82/tcp, 127.0.0.1:84->84/tcp",
}


@pytest.mark.parametrize("words", COLUMNS)
def test_column(words: tuple[str, ...]) -> None:
    publish = [word for word in words if not word.startswith("-")]
    exposed, bindings = port_documents(publish, [word[1:] for word in words if word.startswith("-")])
    requests = requests_of(bindings, exposed, publish_all=False)
    published = [PublishedPort(one.protocol, one.host_ip, one.first_port, one.container_port) for one in requests]
    assert ports_text(ports_document(exposed, published)) == COLUMNS[words]
    assert ports_text(None) == ""
