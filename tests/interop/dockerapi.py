"""The engine's HTTP interface over its socket: what the client costs in starts is too much for hundreds of cases."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class DockerAPI:
    """One connection to a running engine."""

    def __init__(self, path: Path) -> None:
        self._connection = _SocketConnection(path)

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """Ask, and give the answer's JSON; an error status is a failure with the engine's words."""
        data = None if body is None else json.dumps(body)
        self._connection.request(method, "/v1.41" + path, data, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise AssertionError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text) if text else None

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
