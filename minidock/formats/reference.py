"""References: `ubuntu`, `quay.io/a/b:1.2`, `name@sha256:…`, normalised as docker does.

A *canonical* name has its domain (`docker.io/library/ubuntu`), a *familiar* one is what people type and what
repositories.json holds (`ubuntu`). Written without `re`, which alone costs what a whole `minidock ps` may.

Source: distribution/reference, `regexp.go` and `normalize.go`
"""

from __future__ import annotations

from minidock.errors import FormatError, InvalidReference
from minidock.ids import Digest, is_hex64

MAX_NAME_CHARACTERS = 255
MAX_TAG_CHARACTERS = 128
DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ALNUM = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DOMAIN = _ALNUM | {"-"}
_TAG = _ALNUM | frozenset("_.-")


class Reference:
    """A parsed reference; equal when the canonical spelling is equal.

    Shape: domain `docker.io`; path `library/ubuntu`; tag is None only when a digest is given without one
    """

    __slots__ = ("digest", "domain", "path", "tag")

    def __init__(self, domain: str, path: str, tag: str | None, digest: Digest | None) -> None:
        self.domain = domain
        self.path = path
        self.tag = tag
        self.digest = digest

    @property
    def name(self) -> str:
        """The canonical name, `docker.io/library/ubuntu`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The name as people type it, `ubuntu`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix("library/")
        return self.path if "/" in short else short

    @property
    def familiar(self) -> str:
        """The reference as people type it, `ubuntu:latest`, with its digest if it has one."""
        return self.familiar_name + self._suffix()

    @property
    def canonical(self) -> str:
        """The reference with its domain, `docker.io/library/ubuntu:latest`."""
        return self.name + self._suffix()

    @property
    def repository_key(self) -> str:
        """The outer key of repositories.json."""
        return self.familiar_name

    @property
    def store_key(self) -> str:
        """The inner key of repositories.json: a digest wins over a tag, since it is the narrower promise."""
        if self.digest is not None:
            return f"{self.familiar_name}@{self.digest}"
        return f"{self.familiar_name}:{self.tag}"

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.canonical == other.canonical

    def __hash__(self) -> int:
        return hash(self.canonical)

    def __str__(self) -> str:
        return self.familiar

    def __repr__(self) -> str:
        return f"Reference({self.canonical!r})"


def parse_reference(text: str) -> Reference:
    """Parse and normalise a reference; without tag and digest it means `latest`.

    Raises: InvalidReference
    Source: distribution/reference, ParseNormalizedNamed and TagNameOnly
    """
    if is_hex64(text):
        raise InvalidReference(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, rest = _split_domain(text)
    rest, at, digest_text = rest.partition("@")
    path, colon, tag = rest.partition(":")
    if path != path.lower():
        raise InvalidReference(f"invalid reference format: repository name ({_shown(path)}) must be lowercase")
    if not _is_domain(domain) or not all(map(_is_path_component, path.split("/"))) or (colon and not _is_tag(tag)):
        raise InvalidReference(f"invalid reference format: {_shown(text)}")
    if len(domain) + 1 + len(path) > MAX_NAME_CHARACTERS:
        raise InvalidReference(f"repository name must not be more than {MAX_NAME_CHARACTERS} characters")
    digest = None
    if at:
        try:
            digest = Digest.parse(digest_text)
        except FormatError:
            raise InvalidReference(f"invalid reference format: {_shown(text)}: not a sha256 digest") from None
    return Reference(domain, path, tag or (None if digest else DEFAULT_TAG), digest)


def parse_tag(text: str) -> Reference:
    """Parse a reference that shall name an image in this store: with a tag, without a digest.

    Raises: InvalidReference, also for the name `sha256`, which could not be told from an image ID
    """
    reference = parse_reference(text)
    if reference.digest is not None:
        raise InvalidReference(f"refusing to create a tag with a digest reference: {_shown(text)}")
    if reference.familiar_name == "sha256":
        raise InvalidReference("refusing to create an ambiguous tag using digest algorithm as name")
    return reference


def _split_domain(text: str) -> tuple[str, str]:
    # `a/b` is the hub's; only a dot, a colon or the word localhost makes the first part a domain.
    first, slash, rest = text.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        domain, rest = DEFAULT_DOMAIN, text
    else:
        domain = DEFAULT_DOMAIN if first == "index.docker.io" else first
    if domain == DEFAULT_DOMAIN and "/" not in rest.partition("@")[0]:
        rest = "library/" + rest
    return domain, rest


def _is_domain(text: str) -> bool:
    host, colon, port = text.partition(":")
    if colon and not (port.isascii() and port.isdecimal()):
        return False
    return all(part and _DOMAIN.issuperset(part) and part[0] != "-" and part[-1] != "-" for part in host.split("."))


def _is_path_component(text: str) -> bool:
    # Runs of letters and digits, between them one dot, one or two underscores, or any number of hyphens.
    if not text or text[0] not in _LOWER or text[-1] not in _LOWER:
        return False
    separator = ""
    for character in text:
        if character not in _LOWER:
            separator += character
        elif separator:
            if separator not in (".", "_", "__") and separator.strip("-"):
                return False
            separator = ""
    return True


def _is_tag(text: str) -> bool:
    return 0 < len(text) <= MAX_TAG_CHARACTERS and _TAG.issuperset(text) and text[0] not in ".-"


def _shown(text: str) -> str:
    # repr() escapes control characters, which could otherwise steer the terminal.
    return repr(text if len(text) <= 100 else text[:100] + "…")
