"""`explain --picture`: a stack of layers and the ways of writing to it, drawn in the terminal."""

from __future__ import annotations

import os

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from minidock.cli.explaintree import console_for, layer_style, words
from minidock.cli.output import shorten
from minidock.cli.times import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.verbs.explain import ExplainedLayer, Explanation
    from minidock.verbs.layerfacts import LayerFacts, StackFacts

_PLAIN_WIDTH = 100
_BAR_WIDTH = 24


def write_picture(told: Explanation, facts: StackFacts) -> None:
    """Print the picture."""
    console = console_for()
    if not os.isatty(1):
        console.width = _PLAIN_WIDTH
    name = told.container_name or told.reference or told.asked
    console.print(words((name, "bold"), (f"  a process sees one tree; these {len(told.layers)} layers make it", "dim")))
    most = max((fact.size_bytes for fact in facts.layers), default=0) or 1
    for layer, fact in reversed(list(zip(told.layers, facts.layers, strict=True))):
        console.print(_panel(layer, fact, most, console.width))
    for fault in told.faults:
        console.print(words(("✗ ", "bold red"), (fault, "red")))
    console.print(_key())
    console.print(_cases(facts.examples))


def _key() -> Text:
    key = Text("A name is looked for from the top down; the first layer that has it is the one that is seen.\n", "dim")
    for mark, style, meaning in (
        ("+", "green", "names that a layer adds, "),
        ("~", "yellow", "files it changes, "),
        ("-", "red", "names it deletes"),
    ):
        key.append(mark, style)
        key.append(f" {meaning}", "dim")
    key.append("\n")
    return key


def _panel(layer: ExplainedLayer, fact: LayerFacts, most_bytes: int, width: int) -> Panel:
    style = layer_style(layer)
    filled = max(1, round(_BAR_WIDTH * fact.size_bytes / most_bytes)) if fact.size_bytes else 0
    line = Text()
    line.append("█" * filled, style)
    line.append("░" * (_BAR_WIDTH - filled), "dim")
    line.append(f"  {human_size(fact.size_bytes):>7}  ", "bold")
    line.append(f"+{fact.added} ", "green")
    line.append(f"~{fact.changed} ", "yellow")
    line.append(f"-{fact.deleted}", "red")
    lines = [line]
    notes = {"container": "the only one that is written to", "init": "files that every container gets"}
    note = notes.get(layer.role) or " ".join(layer.created_by.split())
    if note:
        lines.append(words((shorten(note, max(20, width - 8)), "italic dim")))
    if layer.shared_with:
        shared = f"shared with {', '.join(layer.shared_with)}"
        lines.append(words((shorten(shared, max(20, width - 8)), "bold")))
    if not layer.is_there:
        lines.append(words(("its content is missing", "bold red")))
    title = words((f" {layer.label} ", f"bold {style}"))
    return Panel(Group(*lines), title=title, title_align="left", border_style=style)


def _cases(examples: dict[str, str]) -> Table:
    lower = examples.get("lower") or examples.get("changed") or "/etc/hosts"
    table = Table(title="What happens when a container writes", title_justify="left", show_lines=True, expand=False)
    for heading in ("where the file is", "what is done", "in the own layer", "for example"):
        table.add_column(heading, overflow="fold")
    rows = (
        ("only below", "change it", "copied up whole, then changed: hides the old one", examples.get("changed", lower)),
        ("in the own layer", "change it", "changed in place", examples.get("added", "")),
        ("nowhere yet", "make it", "made there, nothing below knows of it", ""),
        ("below", "delete it", "a whiteout says: not here; no room is freed", examples.get("whiteout", "")),
        ("a directory below", "make it anew", "marked opaque: nothing below shows through", examples.get("opaque", "")),
    )
    for row in rows:
        table.add_row(*(words(cell) for cell in row))
    return table
