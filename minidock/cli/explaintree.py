"""The walk from a name to the bytes as a tree for people."""

from __future__ import annotations

import io
import os
import sys

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from minidock.cli.output import escape_controls, shorten
from minidock.cli.times import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.verbs.explain import ExplainedLayer, Explanation

# One colour a layer, so that an ID is known again further down.
LAYER_STYLES = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
_COMMAND_WIDTH = 70
_PIPE_WIDTH = 2000


def console_for(descriptor: int = 1) -> Console:
    """A console as wide as the terminal, or without colours and line breaks where nobody watches."""
    # Like everything else that this program prints, whatever the locale.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    if os.isatty(descriptor):
        return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=False)
    return Console(
        file=sys.stdout, highlight=False, markup=False, emoji=False, width=_PIPE_WIDTH, no_color=True, color_system=None
    )


def words(*parts: str | tuple[str, str]) -> Text:
    """A line of (text, style) or plain text, its control characters escaped."""
    line = Text()
    for part in parts:
        text, style = part if isinstance(part, tuple) else (part, "")
        line.append(escape_controls(text), style)
    return line


def layer_style(layer: ExplainedLayer) -> str:
    """The colour of a layer."""
    return {"init": "white", "container": "bold red"}.get(layer.role) or LAYER_STYLES[
        (layer.number - 1) % len(LAYER_STYLES)
    ]


class _Shortener:
    """Identities as they are shown."""

    def __init__(self, *, full: bool) -> None:
        self._full = full

    def __call__(self, text: str) -> str:
        if self._full:
            return text
        head, colon, digits = text.rpartition(":")
        tail = "-init" if digits.endswith("-init") else ""
        return f"{head}{colon}{digits[:12]}…{tail}" if len(digits) > 16 else text

    def link(self, name: str) -> str:
        """A name below l/."""
        return name if self._full or len(name) < 12 else f"{name[:9]}…"

    def path(self, text: str) -> str:
        """A path whose long names are cut."""
        return "/".join(map(self, text.split("/")))


def write_explanation(told: Explanation, *, full: bool) -> None:
    """Print the tree."""
    console = console_for()
    console.print(_tree(told, _Shortener(full=full)))
    for fault in told.faults:
        console.print(words(("✗ ", "bold red"), (fault, "red")))


def _tree(told: Explanation, short: _Shortener) -> Tree:
    is_container = told.kind == "container"
    name = told.container_name or told.reference or told.asked
    tree = Tree(words((name, "bold"), ("  a container" if is_container else "  an image", "dim"), f" in {told.root}"))
    if is_container:
        branch = tree.add(words(("container ID  ", "dim"), (short(told.container_id), "bold")))
        branch.add(words(("mount-id  ", "dim"), short(told.mount_id), ("  its own layer, written to", "dim")))
        branch.add(words(("init-id   ", "dim"), short(told.init_id), ("  the files every container gets", "dim")))
        branch.add(words(("read from ", "dim"), short.path(told.mount_record)))
    if told.reference:
        line = words(("name          ", "dim"), f'"{told.reference}"', (" → ", "dim"), short(told.image_id))
        tree.add(line).add(words(("read from ", "dim"), "image/overlay2/repositories.json"))
    branch = tree.add(words(("image ID      ", "dim"), (short(told.image_id) or "unknown", "bold")))
    if told.config_path:
        branch.add(words(("sha256 of the ", "dim"), f"{told.config_bytes}", (" bytes of ", "dim"), _path(told, short)))
    others = [tag for tag in told.tags if tag != told.reference]
    if others:
        branch.add(words(("names ", "dim"), ", ".join(others)))
    branch = tree.add(words(("layers        ", "dim"), f"{len(told.layers)}", (", the bottom one first", "dim")))
    styles = _styles(told)
    for layer in told.layers:
        _add_layer(branch, layer, styles, short)
    if told.options:
        line = words(("mount         ", "dim"), "overlay")
        branch = tree.add(line)
        for option in told.options.split(","):
            branch.add(_colour_option(option, told, short))
    return tree


def _path(told: Explanation, short: _Shortener) -> str:
    return short.path(told.config_path)


def _styles(told: Explanation) -> dict[str, str]:
    """The colour of each layer's short name."""
    return {f"l/{layer.link_id}": layer_style(layer) for layer in told.layers if layer.link_id}


def _coloured(names: list[str], styles: dict[str, str], short: _Shortener) -> Text:
    """Short names in their layers' colours."""
    line = Text()
    for number, name in enumerate(names):
        line.append_text(words((":" if number else "", "dim"), (short.link(name), styles.get(name, ""))))
    return line


def _add_layer(branch: Tree, layer: ExplainedLayer, styles: dict[str, str], short: _Shortener) -> None:
    style = layer_style(layer)
    size = human_size(layer.size_bytes) if layer.size_bytes >= 0 else ""
    command = shorten(layer.created_by.replace("\t", " "), _COMMAND_WIDTH)
    inner = branch.add(words((layer.label, f"bold {style}"), f"  {size}  ", (command, "italic dim")))
    if layer.diff_id:
        inner.add(words(("diff_id    ", "dim"), short(layer.diff_id), ("  sha256 of the layer's tar", "dim")))
    if layer.hash_input:
        left, _, right = layer.hash_input.partition(" ")
        chain = words(("chain ID   ", "dim"), short(layer.chain_id))
        chain.append_text(words(('  sha256 of "', "dim"), f"{short(left)} {short(right)}", ('"', "dim")))
        inner.add(chain)
    elif layer.chain_id:
        inner.add(words(("chain ID   ", "dim"), short(layer.chain_id), ("  the bottom layer's is its diff_id", "dim")))
    if layer.cache_id:
        source = "by the list of the layer above, its own record is lost" if layer.is_by_lower else layer.record
        told = f"  read from {short.path(source)}/cache-id" if layer.record and not layer.is_by_lower else f"  {source}"
        told = told if source else ""
        inner.add(words(("directory  ", "dim"), (f"overlay2/{short(layer.cache_id)}", style), (told, "dim")))
    else:
        inner.add(words(("directory  ", "dim"), ("nothing tells it", "bold red")))
    if layer.link_id:
        target = f"../{short(layer.link_target)}/diff" if layer.link_target else "missing"
        arrow = words(("short name ", "dim"), (f"l/{layer.link_id}", style), (f" → {target}", "dim"))
        inner.add(arrow)
    if layer.lowers:
        line = words(("lies on    ", "dim"))
        line.append_text(_coloured(layer.lowers, styles, short))
        inner.add(line)
    if layer.shared_with:
        inner.add(words(("also of    ", "dim"), ", ".join(layer.shared_with)))
    if layer.cache_id and not layer.is_there:
        inner.add(words(("its content is missing", "bold red")))


def _colour_option(option: str, told: Explanation, short: _Shortener) -> Text:
    """An option with the layers in their colours."""
    name, equals, value = option.partition("=")
    line = words((name + equals, "dim"))
    if name != "lowerdir":
        line.append_text(words((short.path(value), "bold red" if name in ("upperdir", "workdir") else "")))
        return line
    line.append_text(_coloured(value.split(":"), _styles(told), short))
    return line
