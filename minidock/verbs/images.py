"""`images`: the images of a data root as docker lists them.

Docker's daemon answers this from memory, so this reads each file once and nothing twice: one config an image,
one size a layer.
Source: moby daemon/images/images.go; docker cli, command/formatter/image.go
"""

from __future__ import annotations

from minidock.constants import MAX_CONFIG_BYTES, ZERO_TIME_NS
from minidock.errors import FormatError, InvalidReference, NoSuchImage, NoSuchLayer, StoreCorrupt, UsageError
from minidock.formats.gojson import parse_json, parse_time
from minidock.ids import ChainID, DiffID, ImageID, chain_id_of, sha256_hex
from minidock.store.references import canonical_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minidock.store.root import DataRoot

NONE = "<none>"


class ImageSummary:
    """One row of `images`.

    Shape: repository, tag, digest: `<none>` when there is none; digest is "" in the one row of a repository that has
           digests and no tag, when digests were not asked for
    Units: created_ns since 1970 (ZERO_TIME_NS when unknown); size_bytes of all layers together
    """

    __slots__ = ("created_ns", "digest", "image_id", "repository", "size_bytes", "tag")

    def __init__(
        self, repository: str, tag: str, digest: str, image_id: ImageID, created_ns: int, size_bytes: int
    ) -> None:
        self.repository = repository
        self.tag = tag
        self.digest = digest
        self.image_id = image_id
        self.created_ns = created_ns
        self.size_bytes = size_bytes


def list_images(
    root: DataRoot,
    *,
    all: bool = False,
    filters: Sequence[str] = (),
    reference: str | None = None,
    digests: bool = False,
    tag_digests: bool = False,
) -> list[ImageSummary]:
    """List images, newest first.

    Shape:  all: also nameless ones that others were committed from; filters: `dangling=`, `label=`, `before=`,
            `since=`, `reference=`; reference: as the filter; digests: a row for each digest instead of one a tag;
            tag_digests: so only where there is a tag, as docker does for a template that shows digests
    Raises: UsageError for an unknown filter, NoSuchImage for before and since, StoreCorrupt
    """
    wanted = _Filters(root, filters, reference)
    names: dict[ImageID, list[str]] = {}
    for name, image_id in root.references.readable().items():
        names.setdefault(image_id, []).append(name)
    sizes = _Sizes(root)
    parents: set[ImageID] | None = None
    found: list[tuple[int, list[ImageSummary]]] = []
    for image_id in root.images.ids():
        document = _read(root, image_id)
        if document is None or not wanted.match_document(document):
            continue
        size_bytes = sizes.of(document)
        if size_bytes is None:
            continue
        own = names.get(image_id, [])
        own.sort(key=canonical_key)
        shown = [name for name in own if wanted.match_name(name)]
        has_children = False
        if not shown or wanted.dangling:
            if parents is None:
                parents = set(root.images.parents().values())
            has_children = image_id in parents
        if not wanted.keep(shown, has_children, all):
            continue
        created_ns = _created_ns(document)
        rows = [
            ImageSummary(repository, tag, digest, image_id, created_ns, size_bytes)
            for repository, tag, digest in _rows(shown, digests, tag_digests)
        ]
        found.append((created_ns // 1_000_000_000, rows))
    found.sort(key=lambda item: -item[0])
    return [row for _, rows in found for row in rows]


def _read(root: DataRoot, image_id: ImageID) -> dict[str, Any] | None:
    # What does not hash to its name, or has no rootfs, is no image to the engine either: it logs it and goes on.
    try:
        raw = root.images.read(image_id)
        if sha256_hex(raw) != image_id[7:]:
            return None
        document = parse_json(raw, what="image config", limit_bytes=MAX_CONFIG_BYTES)
    except (FormatError, NoSuchImage):
        return None
    system = document.get("os")
    if not isinstance(document.get("rootfs"), dict) or system not in (None, "", "linux"):
        return None
    return document


def _created_ns(document: dict[str, Any]) -> int:
    created = document.get("created")
    if not isinstance(created, str):
        return ZERO_TIME_NS
    try:
        return parse_time(created)
    except FormatError:
        return ZERO_TIME_NS


class _Sizes:
    """The sizes of whole stacks, each layer's size read once and each chain hashed once."""

    def __init__(self, root: DataRoot) -> None:
        self._layers = root.layers
        self._chains: dict[tuple[ChainID | None, str], ChainID] = {}
        self._totals: dict[ChainID | None, int | None] = {None: 0}

    def of(self, document: dict[str, Any]) -> int | None:
        """The size of all layers together; None when one is missing, which hides the image."""
        diff_ids = document["rootfs"].get("diff_ids") or []
        if not isinstance(diff_ids, list):
            return None
        chain_id: ChainID | None = None
        for diff_id in diff_ids:
            if not isinstance(diff_id, str):
                return None
            above = self._chains.get((chain_id, diff_id))
            if above is None:
                try:
                    above = chain_id_of(chain_id, DiffID.parse(diff_id))
                except FormatError:
                    return None
                self._chains[chain_id, diff_id] = above
            if above not in self._totals:
                self._totals[above] = self._add(self._totals[chain_id], above)
            chain_id = above
        return self._totals[chain_id]

    def _add(self, below: int | None, chain_id: ChainID) -> int | None:
        if below is None:
            return None
        try:
            return below + self._layers.size(chain_id)
        except (NoSuchLayer, StoreCorrupt):
            return None


def _rows(names: list[str], digests: bool, tag_digests: bool) -> list[tuple[str, str, str]]:
    tags: dict[str, list[str]] = {}
    hashes: dict[str, list[str]] = {}
    for name in names:
        repository, at, digest = name.partition("@")
        if at:
            hashes.setdefault(repository, []).append(digest)
        else:
            repository, _, tag = name.rpartition(":")
            tags.setdefault(repository, []).append(tag)
    rows = []
    for repository, its_tags in tags.items():
        its_hashes = hashes.pop(repository, [])
        shown = its_hashes if digests or tag_digests else []
        for tag in its_tags:
            rows += [(repository, tag, digest) for digest in shown or [NONE]]
    for repository, its_hashes in hashes.items():
        rows += [(repository, NONE, digest) for digest in (its_hashes if digests else [""])]
    return rows or [(NONE, NONE, NONE)]


class _Filters:
    """The filters of `images`, read once; raises UsageError with docker's words."""

    def __init__(self, root: DataRoot, filters: Sequence[str], reference: str | None) -> None:
        self.patterns: list[str] = [reference] if reference else []
        self.labels: list[tuple[str, str | None]] = []
        self.dangling: bool | None = None
        self.before_ns: int | None = None
        self.since_ns: int | None = None
        for text in filters:
            key, equals, value = text.partition("=")
            key, value = key.strip().lower(), value.strip()
            if not equals:
                raise UsageError(f"bad format of filter (expected name=value): {text}")
            if key == "reference":
                self.patterns.append(value)
            elif key == "label":
                name, has_value, wanted = value.partition("=")
                self.labels.append((name, wanted if has_value else None))
            elif key == "dangling":
                if value not in ("true", "false", "1", "0"):
                    raise UsageError(f"Invalid filter 'dangling=[{value}]'")
                self.dangling = value in ("true", "1")
            elif key == "before":
                self.before_ns = _created_ns(root.images.resolve(value).config.document)
            elif key == "since":
                self.since_ns = _created_ns(root.images.resolve(value).config.document)
            else:
                raise UsageError(f"Invalid filter '{key}'")

    def match_document(self, document: dict[str, Any]) -> bool:
        """Whether the config passes label, before and since."""
        if self.labels:
            config = document.get("config")
            labels = config.get("Labels") if isinstance(config, dict) else None
            if not isinstance(labels, dict):
                return False
            if not all(name in labels and (value is None or labels[name] == value) for name, value in self.labels):
                return False
        if self.before_ns is not None and _created_ns(document) >= self.before_ns:
            return False
        return self.since_ns is None or _created_ns(document) > self.since_ns

    def match_name(self, name: str) -> bool:
        """Whether a familiar reference passes one of the patterns, with or without its tag."""
        if not self.patterns:
            return True
        repository = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
        return any(match_path(pattern, name) or match_path(pattern, repository) for pattern in self.patterns)

    def keep(self, names: list[str], has_children: bool, all: bool) -> bool:
        """Whether an image with these names left is listed; the rules are the engine's, in its order."""
        if self.dangling and has_children:
            return False
        if not names:
            return (all or not has_children) and self.dangling is not False and not self.patterns
        return not (self.dangling and any("@" not in name for name in names))


def match_path(pattern: str, text: str) -> bool:
    """Match as Go's path.Match: `*` and `?` stop at a slash, `[a-z]` and `[^a]` are sets, `\\` quotes.

    Raises: InvalidReference for a broken pattern
    """
    ends = {0}
    position = 0
    while position < len(pattern):
        letter = pattern[position]
        position += 1
        if letter == "*":
            reached: set[int] = set()
            for start in ends:
                end = text.find("/", start)
                reached.update(range(start, (len(text) if end < 0 else end) + 1))
            ends = reached
            continue
        if letter == "[":
            ranges, negated, position = _parse_set(pattern, position)
            ends = {at + 1 for at in ends if at < len(text) and text[at] != "/" and _in(text[at], ranges) != negated}
            continue
        if letter == "\\":
            if position == len(pattern):
                raise InvalidReference(f"syntax error in pattern: {pattern!r}")
            letter = pattern[position]
            position += 1
        elif letter == "?":
            ends = {at + 1 for at in ends if at < len(text) and text[at] != "/"}
            continue
        ends = {at + 1 for at in ends if at < len(text) and text[at] == letter}
    return len(text) in ends


def _in(letter: str, ranges: list[tuple[str, str]]) -> bool:
    return any(low <= letter <= high for low, high in ranges)


def _parse_set(pattern: str, position: int) -> tuple[list[tuple[str, str]], bool, int]:
    broken = InvalidReference(f"syntax error in pattern: {pattern!r}")
    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[tuple[str, str]] = []
    while position < len(pattern) and not (pattern[position] == "]" and ranges):
        bounds = []
        for _ in range(2):
            if position < len(pattern) and pattern[position] == "\\":
                position += 1
            elif position < len(pattern) and pattern[position] in "-]":
                raise broken
            if position >= len(pattern):
                raise broken
            bounds.append(pattern[position])
            position += 1
            if not pattern.startswith("-", position):
                break
            position += len(bounds) == 1
        ranges.append((bounds[0], bounds[-1]))
    if position >= len(pattern):
        raise broken
    return ranges, negated, position + 1
