"""Pictures of stacks, and timelines: right figures, one sound file, nothing hostile in them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests import builders
from tests.integration.looker import Looker
from tests.integration.tool import Terminal, Tool, command
from tests.seen_roots import age, stamps

_VOID = {"meta", "br", "path", "rect", "img"}


class _Page(HTMLParser):
    """Checks that elements nest, and keeps what is there."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attributes if name == "id"]
        self.links += [value or "" for name, value in attributes if name in ("href", "src")]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data + "\n"


def test_the_page_is_one_sound_file(look: Looker, scratch: Path) -> None:
    assert look.good("explain", "--html", scratch / "box.html", "box") == ""
    text = (scratch / "box.html").read_text()
    assert text == look.good("explain", "--html", "-", "box")
    page = _Page(text)
    assert page.tags.count("svg") == 8
    assert len(page.ids) == len(set(page.ids)) == 8
    assert page.links == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    told = look.document("explain", "box")
    for layer in told["layers"]:
        assert layer["cache_id"] in page.words
        assert layer["link_id"] in page.words
    assert "This container's own layer" in page.words
    # One path of the image or the container for each way of hiding one.
    for path in ("/etc/passwd", "/home", "/data/deep"):
        assert path in page.words
    assert "prefers-color-scheme:dark" in text and "max-width:640px" in text


def test_nothing_is_written_below_the_root(look: Looker) -> None:
    done = look("explain", "--html", look.root / "page.html", "box")
    assert done.returncode == 1
    assert "below the data root" in done.stderr
    assert not (look.root / "page.html").exists()


def test_hostile_names_stay_names(scratch: Path, busybox_layer: bytes) -> None:
    evil = b"</text><script>alert(1)</script>\x1b[31m&quot;\xff"
    layers = [busybox_layer, builders.layer_tar(builders.tar_member(evil.replace(b"/", b""), b"x"))]
    history = [{"created_by": "\"><img src=x onerror='alert(1)'>"}, {"created_by": "</svg><script>\x07\u202e</script>"}]
    spec = builders.ImageSpec(layers, tags=["evil:1"], config=builders.image_config(layers, history=history))
    archive = builders.docker_archive(scratch / "evil.tar", spec)
    builders.run_command(*command("--root", scratch / "root", "pull-tar", "-q", archive))
    evil_root = Looker(scratch / "root")
    text = evil_root.good("explain", "--html", "-", "evil:1")
    page = _Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert "</svg><script>\\x07\\u202e</script>" in page.words
    drawn = evil_root.good("explain", "--picture", "evil:1")
    assert all(letter.isprintable() or letter == "\n" for letter in drawn)


def test_the_picture_in_the_terminal(look: Looker) -> None:
    drawn = look.good("explain", "--picture", "box")
    places = [drawn.index(f" {label} ") for label in ("container", "init layer", "layer 3", "layer 2", "layer 1")]
    assert places == sorted(places)
    assert "shared with seen:2" in drawn
    assert max(map(len, drawn.splitlines())) <= 100
    assert re.search(r"opaque.*│ /data/deep", drawn)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_picture_fits_the_terminal(columns: int, tool: Tool) -> None:
    terminal = Terminal(tool, "explain", "--picture", "busybox:test", rows=50, columns=columns)
    try:
        assert terminal.wait(60) == 0
        shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.seen.decode())
    finally:
        terminal.close()
    lines = shown.splitlines()
    assert max(map(len, lines)) == columns
    assert "+ names that a layer adds" in shown
    assert "What happens when a container writes" in shown
    # No frame is torn: what opens a line ends it.
    assert all(line.rstrip()[-1] in "│╮╯┓┃┩┤┘" for line in lines if line[:1] in "│╭╰┏┃┡├└" and line.strip())


def test_no_words_leave_their_figure(look: Looker) -> None:
    """A letter of the small fonts is at most 0.6 of its size wide, on the average of a word."""
    text = look.good("explain", "--html", "-", "box")
    for figure in re.findall(r"<svg .*?</svg>", text, re.DOTALL):
        match = re.search(r'viewBox="(-?\d+) 0 (\d+) (\d+)"', figure)
        assert match
        left, width, height = map(int, match.groups())
        place = r'<text class="(\w+)[^"]*" x="([\d.]+)" y="([\d.]+)"( text-anchor="\w+")?>(.*?)</text>'
        words = re.findall(place, figure)
        assert words
        for style, x, y, anchor, word in words:
            size = {"strong": 15, "tiny": 12}.get(style, 14)
            room = 0.6 * size * len(re.sub(r"&\w+;", "x", word))
            shift = {"": 0.0, ' text-anchor="end"': 1.0}.get(anchor, 0.5)
            start = float(x) - shift * room
            assert left <= start and start + room <= left + width, (word, start, room)
            assert 0 < float(y) < height, word


def _find(top: Path) -> dict[str, tuple[str, ...]]:
    words = ("find", top, "-mindepth", "1", "-printf", "%i|%M|%U|%G|%s|%T@|%C@|/%P\\n")
    found = {}
    for line in builders.run_command(*words).stdout.splitlines():
        *fields, path = line.split("|")
        found[path] = tuple(field.partition(".")[0] for field in fields)
    return found


def test_a_timeline_has_every_file_of_every_layer(look: Looker) -> None:
    age(look.root)
    before = stamps(look.root)
    lines = look.good("timeline", "--hash", "box").splitlines()
    whole = look.good("timeline").splitlines()
    assert stamps(look.root) == before
    told = look.document("explain", "box")
    expected = {}
    for layer in told["layers"]:
        top = look.root / layer["directory"] / "diff"
        for path, fields in _find(top).items():
            tail = "-init" if layer["role"] == "init" else ""
            expected[f"{layer['cache_id'][:12]}{tail}{path}"] = (fields, top / path[1:])
    assert len(lines) == len(expected)
    for line in lines:
        md5, name, inode, mode, uid, gid, size, _, mtime, ctime, born = line.split("|")
        plain = re.sub(r" (-> .*|\(whiteout\)|\(opaque\))$", "", name)
        fields, path = expected.pop(plain.split(":", 1)[1])
        assert (inode, mode[3:], uid, gid, size, mtime, ctime) == (fields[0], fields[1][1:], *fields[2:])
        assert int(born) == 0 or int(born) <= int(ctime)
        if mode.startswith("r"):
            assert md5 == hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        else:
            assert md5 == "0"
    names = "\n".join(lines)
    assert re.search(r"\|/layer-2:\w{12}/data/link -> one\|", names)
    assert re.search(r"\|/layer-3:\w{12}/home \(whiteout\)\|\d+\|c/c", names)
    assert re.search(r"\|/layer-3:\w{12}/data/deep \(opaque\)\|", names)
    directories = [path for path in (look.root / "overlay2").iterdir() if path.name != "l"]
    assert len(whole) == sum(len(_find(path / "diff")) for path in directories)
    lower = [look.root / layer["directory"] / "diff" for layer in told["layers"][:2]]
    assert len(look.document("timeline", "seen:2")) == sum(len(_find(top)) for top in lower)


def test_a_timelines_names_break_no_line(scratch: Path) -> None:
    (scratch / "overlay2" / ("e" * 64) / "diff").mkdir(parents=True)
    top = os.fsencode(scratch / "overlay2" / ("e" * 64) / "diff")
    for name in (b"a|b", b"new\nline", b"\x1b[31m", b"\xff", b"back\\slash"):
        with open(top + b"/" + name, "w"):
            pass
    lines = Looker(scratch).good("timeline").splitlines()
    assert [line.split("|")[1].rpartition("/")[2] for line in lines] == [
        "\\x1b[31m",
        "a\\x7cb",
        "back\\x5cslash",
        "new\\x0aline",
        "\\xff",
    ]
    assert all(line.count("|") == 10 and line.isprintable() for line in lines)
    assert all(line.split("|")[1].startswith("/orphan:eeeeeeeeeeee/") for line in lines)
    assert len(json.loads(Looker(scratch).good("timeline", "--json"))) == 5


@pytest.mark.parametrize("words", [("--json", "--shell"), ("--picture", "--html", "-")])
def test_one_form_at_a_time(words: tuple[str, ...], look: Looker) -> None:
    done = look("explain", *words, "box")
    assert (done.returncode, done.stdout) == (1, "")
    assert subprocess.run(command("explain", "--help"), capture_output=True).returncode == 0
