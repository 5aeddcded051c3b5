"""Image configs: the JSON document whose sha256 is the image ID.

The bytes are kept verbatim and parsed on demand: an ID never changes by a round trip, and a listing of two
hundred images checks only what it shows. What comes from outside is checked whole by `validate()`.

Source: OCI image spec, config.md; moby image/image.go
"""

from __future__ import annotations

from minidock.constants import MAX_CONFIG_BYTES
from minidock.errors import BadConfig, FormatError
from minidock.formats.gojson import encode_json, parse_json, parse_time
from minidock.formats.runconfig import (
    Healthcheck,
    RunConfig,
    flag_of,
    object_of,
    order_run_config,
    text_of,
    words_of,
)
from minidock.ids import ChainID, DiffID, ImageID, chain_ids_of, sha256_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Healthcheck", "HistoryEntry", "ImageConfig", "RunConfig", "encode_config", "order_run_config"]

_HISTORY_KEYS = ("created", "created_by", "author", "comment", "empty_layer")
_HISTORY_KEYS_AUTHOR_FIRST = ("created", "author", "created_by", "comment", "empty_layer")
_ROOTFS_KEYS = ("type", "diff_ids")


class HistoryEntry:
    """One step of an image's making.

    Shape: created the text as stored, "" when absent; empty_layer True when the step added no layer
    """

    __slots__ = ("author", "comment", "created", "created_by", "empty_layer")

    def __init__(self, document: dict[str, Any]) -> None:
        """Check document; raises BadConfig."""
        self.created = text_of(document, "created")
        self.created_by = text_of(document, "created_by")
        self.author = text_of(document, "author")
        self.comment = text_of(document, "comment")
        self.empty_layer = flag_of(document, "empty_layer")

    @property
    def created_ns(self) -> int | None:
        """Nanoseconds since 1970, None when absent; raises BadConfig."""
        return _time_of(self.created, "history.created")


class ImageConfig:
    """A parsed config.

    Shape: raw the bytes as stored; document the parsed object (not to be changed); diff_ids bottom first
    """

    __slots__ = ("_config", "_history", "_image_id", "diff_ids", "document", "raw")

    def __init__(self, raw: bytes, document: dict[str, Any], diff_ids: list[DiffID]) -> None:
        self.raw = raw
        self.document = document
        self.diff_ids = diff_ids
        self._image_id: ImageID | None = None
        self._config: RunConfig | None = None
        self._history: list[HistoryEntry] | None = None

    @classmethod
    def parse(cls, raw: bytes) -> ImageConfig:
        """Parse a config's bytes and check what every user of it needs: an object with a usable `rootfs`.

        Raises: BadConfig
        """
        try:
            document = parse_json(raw, what="image config", limit_bytes=MAX_CONFIG_BYTES)
        except FormatError as error:
            raise BadConfig(error.message) from None
        if b"\\u" in raw:
            try:
                document = _without_surrogates(document)
            except RecursionError:
                raise BadConfig("image config: JSON is nested too deeply") from None
        if document.get("rootfs") is None:
            raise BadConfig("image config: there is no rootfs key")
        rootfs = object_of(document, "rootfs")
        if text_of(rootfs, "type") not in ("", "layers"):
            raise BadConfig(f"image config: rootfs.type {rootfs['type'][:40]!r} is unknown")
        try:
            diff_ids = [DiffID(DiffID.parse(text)) for text in _list_of(rootfs, "diff_ids")]
        except FormatError as error:
            raise BadConfig(f"image config: rootfs.diff_ids: {error.message[:200]}") from None
        return cls(raw, document, diff_ids)

    def validate(self) -> ImageConfig:
        """Check everything that may ever be read of this config, and return it; raises BadConfig.

        More non-empty history entries than layers are refused, as docker does on load.
        """
        for key in ("architecture", "os", "variant", "author", "comment", "docker_version", "container", "os.version"):
            text_of(self.document, key)
        words_of(self.document, "os.features")
        _time_of(self.created, "created")
        for key in ("config", "container_config"):
            RunConfig(object_of(self.document, key))
        filled = 0
        for entry in self.history:
            _time_of(entry.created, "history.created")
            filled += not entry.empty_layer
        if filled > len(self.diff_ids):
            raise BadConfig(f"image config: too many non-empty layers in history: {filled} for {len(self.diff_ids)}")
        return self

    @property
    def image_id(self) -> ImageID:
        """The sha256 of the raw bytes."""
        if self._image_id is None:
            self._image_id = ImageID("sha256:" + sha256_hex(self.raw))
        return self._image_id

    @property
    def chain_ids(self) -> list[ChainID]:
        """The chain_ids of the layers, bottom first."""
        return chain_ids_of(self.diff_ids)

    @property
    def config(self) -> RunConfig:
        """How to run a container of this image; raises BadConfig at the first access."""
        if self._config is None:
            self._config = RunConfig(object_of(self.document, "config"))
        return self._config

    @property
    def history(self) -> list[HistoryEntry]:
        """The steps, oldest first; raises BadConfig at the first access."""
        if self._history is None:
            entries = _list_of(self.document, "history")
            self._history = [HistoryEntry(object_of({"history": entry}, "history")) for entry in entries]
        return self._history

    @property
    def architecture(self) -> str:
        """Go's name, `amd64`; "" when absent."""
        return text_of(self.document, "architecture")

    @property
    def variant(self) -> str:
        """The CPU variant, `v7`; mostly ""."""
        return text_of(self.document, "variant")

    @property
    def os(self) -> str:
        """`linux`; "" when absent, which means linux."""
        return text_of(self.document, "os")

    @property
    def author(self) -> str:
        """Who made it; "" when absent."""
        return text_of(self.document, "author")

    @property
    def comment(self) -> str:
        """The top-level comment; "" when absent."""
        return text_of(self.document, "comment")

    @property
    def created(self) -> str:
        """When it was made, as stored; "" when absent."""
        return text_of(self.document, "created")

    @property
    def created_ns(self) -> int | None:
        """Nanoseconds since 1970, None when absent; raises BadConfig."""
        return _time_of(self.created, "created")


def encode_config(document: dict[str, Any], *, author_first: bool = False) -> bytes:
    """The bytes of a new config as Docker's engine writes them: the image ID hangs on each of them.

    Top-level keys sorted, `config` and `container_config` in struct order with absent values filled in, history
    entries in struct order without empty values, `rootfs` with its type first, compact, no newline.

    Shape:  author_first: history as engines up to 24 write it; newer ones put created_by before author
    Source: shared format notes §6.1; moby image/image.go, MarshalJSON
    """
    ordered = dict(document)
    for key in ("config", "container_config"):
        if ordered.get(key) is not None:
            ordered[key] = order_run_config(ordered[key])
    if ordered.get("history") is not None:
        keys = _HISTORY_KEYS_AUTHOR_FIRST if author_first else _HISTORY_KEYS
        ordered["history"] = [
            {key: entry[key] for key in keys if entry.get(key)} for entry in map(_step, ordered["history"])
        ]
    if ordered.get("rootfs") is not None:
        ordered["rootfs"] = {key: ordered["rootfs"][key] for key in _ROOTFS_KEYS if key in ordered["rootfs"]}
    return encode_json(ordered, sort_keys=True)


def _step(entry: dict[str, Any] | None) -> dict[str, Any]:
    return entry or {}


def _without_surrogates(value: Any) -> Any:
    """Half a surrogate pair (`\\ud800` in the JSON) fits no encoding; Go reads it as U+FFFD."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _list_of(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadConfig(f"image config: {key} must be a list")
    return value


def _time_of(text: str, key: str) -> int | None:
    if not text:
        return None
    try:
        return parse_time(text)
    except FormatError as error:
        raise BadConfig(f"image config: {key}: {error.message}") from None
