"""Figures of a layer stack as SVG, to stand in an HTML page: colours come from the page's style, names are escaped."""

from __future__ import annotations

import html
import math

from minidock.cli.output import escape_controls, shorten
from minidock.cli.times import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.verbs.explain import ExplainedLayer, Explanation
    from minidock.verbs.layerfacts import LayerFacts, StackFacts

# Hues of neighbouring layers differ clearly; the container's own layer has the page's accent.
_HUES = (205, 150, 265, 30, 330, 180, 95, 235)
_LEAST_HEIGHT, _MOST_HEIGHT = 58, 104
_GAP = 8
_LETTER = 7.4


def text_of(text: str) -> str:
    """Text for HTML: control characters as escapes, marks as entities."""
    return html.escape(escape_controls(text), quote=True)


def hue_of(layer: ExplainedLayer) -> int:
    """A layer's hue, the same wherever it is shown."""
    return _HUES[(layer.number - 1) % len(_HUES)]


def _class_of(layer: ExplainedLayer) -> str:
    return "own" if layer.role == "container" else "init" if layer.role == "init" else "layer"


def stack_figure(told: Explanation, facts: StackFacts, width: int) -> str:
    """The layers on each other, topmost first, and what a process sees of them."""
    pairs = list(zip(told.layers, facts.layers, strict=True))[::-1]
    most = max((fact.size_bytes for _, fact in pairs), default=0)
    left = 46
    parts: list[str] = [_view_bar(width)]
    y = 74.0
    for layer, fact in pairs:
        height = _height(fact.size_bytes, most)
        parts.append(_block(layer, fact, left, y, width - left - 1, height))
        y += height + _GAP
    # The look from above goes through all of them.
    parts.append(
        f'<path class="look" d="M22 50 V{y - _GAP - 12:.0f}" marker-end="url(#tip{width})"/>'
        f'<text class="small turn" transform="translate(13 {(y + 50) / 2:.0f}) rotate(-90)" '
        'text-anchor="middle">looked for from the top down</text>'
    )
    marker = (
        f'<defs><marker id="tip{width}" viewBox="0 0 10 10" refX="5" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto">'
        '<path class="tip" d="M0 0 L10 5 L0 10 z"/></marker></defs>'
    )
    title = f"{len(pairs)} layers of {told.asked}"
    return f'<svg viewBox="0 0 {width} {y:.0f}" role="img" aria-label="{text_of(title)}">{marker}{"".join(parts)}</svg>'


def _view_bar(width: int) -> str:
    words = "What a process sees: one tree, /" if width > 500 else "A process sees one tree, /"
    return (
        f'<rect class="view" x="1" y="1" width="{width - 2}" height="48" rx="12"/>'
        f'<text class="strong" x="{width / 2:.0f}" y="30" text-anchor="middle">{words}</text>'
    )


def _height(size_bytes: int, most_bytes: int) -> float:
    if not size_bytes or not most_bytes:
        return _LEAST_HEIGHT
    return _LEAST_HEIGHT + (_MOST_HEIGHT - _LEAST_HEIGHT) * math.sqrt(size_bytes / most_bytes)


def _block(layer: ExplainedLayer, fact: LayerFacts, x: float, y: float, width: float, height: float) -> str:
    size = human_size(fact.size_bytes)
    middle = y + height / 2
    parts = [
        f'<rect class="{_class_of(layer)}" style="--hue:{hue_of(layer)}" x="{x}" y="{y:.1f}" width="{width:.0f}" '
        f'height="{height:.1f}" rx="10"/>',
        f'<text class="strong" x="{x + 16}" y="{middle - 6:.1f}">{text_of(_name(layer))}</text>',
        f'<text class="strong" x="{x + width - 16:.0f}" y="{middle - 6:.1f}" text-anchor="end">{size}</text>',
    ]
    counts = _counts(fact)
    room = int((width - 32) / _LETTER) - len(counts) - 3
    note = _note(layer)
    if note and room > 8:
        parts.append(f'<text class="small" x="{x + 16}" y="{middle + 15:.1f}">{text_of(shorten(note, room))}</text>')
    parts.append(
        f'<text class="small" x="{x + width - 16:.0f}" y="{middle + 15:.1f}" text-anchor="end">{counts}</text>'
    )
    if layer.shared_with:
        parts.append(_badge(layer, x, middle, width))
    if not layer.is_there:
        parts.append(
            f'<text class="bad" x="{x + width / 2:.0f}" y="{middle - 6:.1f}" text-anchor="middle">missing</text>'
        )
    return "".join(parts)


def _name(layer: ExplainedLayer) -> str:
    names = {"container": "This container's own layer", "init": "Init layer"}
    return names.get(layer.role) or f"Layer {layer.number}"


def _note(layer: ExplainedLayer) -> str:
    notes = {"container": "the only one that is written to", "init": "files that every container gets"}
    return notes.get(layer.role) or " ".join(layer.created_by.split())


def _counts(fact: LayerFacts) -> str:
    parts = [f"+{fact.added}"] if fact.added else []
    parts += [f"~{fact.changed}"] if fact.changed else []
    parts += [f"−{fact.deleted}"] if fact.deleted else []
    return " ".join(parts) or "no change"


def _badge(layer: ExplainedLayer, x: float, middle: float, width: float) -> str:
    others = layer.shared_with
    label = f"shared with {len(others)} other image{'s' if len(others) > 1 else ''}"
    room = width - (len(_name(layer)) + 14) * _LETTER - 60
    if room < len(label) * _LETTER:
        label = f"shared ×{len(others) + 1}"
    size = len(label) * 6.6 + 18
    left = x + 16 + len(_name(layer)) * 8.2 + 10
    names = text_of(", ".join(others[:20]))
    return (
        f"<g><title>{names}</title>"
        f'<rect class="badge" x="{left:.0f}" y="{middle - 21:.1f}" width="{size:.0f}" height="20" rx="10"/>'
        f'<text class="tiny" x="{left + size / 2:.0f}" y="{middle - 7:.1f}" text-anchor="middle">{label}</text></g>'
    )


def case_figure(name: str, upper: str, lower: str, seen: str, action: str) -> str:
    """One way of writing: the tree that is seen, the layer that is written to, the layers below.

    Shape: name: unlike any other figure's of the page; upper, lower, seen: "file", "new", "copy", "changed",
           "whiteout", "opaque", "empty", "gone" or "old"; action: "copy", "make", "write", "hide", "opaque" or "none":
           what the own layer does with it
    """
    rows = (("seen", seen, 6), ("own layer", upper, 76), ("layers below", lower, 146))
    parts = []
    for label, kind, y in rows:
        frame = "view" if label == "seen" else "own" if label == "own layer" else "layer"
        parts.append(f'<rect class="{frame}" style="--hue:205" x="92" y="{y}" width="227" height="46" rx="9"/>')
        parts.append(f'<text class="small" x="84" y="{y + 27}" text-anchor="end">{label}</text>')
        parts.append(_thing(kind, 205, y + 23))
    arrows = {
        "copy": '<path class="act" d="M205 146 V126" marker-end="url(#GO)"/>',
        "none": '<path class="act" d="M250 146 V58" stroke-dasharray="3 4" marker-end="url(#GO)"/>',
    }
    parts.append(arrows.get(action, ""))
    if action in ("copy", "make", "write"):
        parts.append('<path class="act" d="M205 76 V56" marker-end="url(#GO)"/>')
    if action in ("hide", "opaque"):
        parts.append('<path class="stop" d="M196 128 l18 12 m0 -12 l-18 12"/>')
    marker = (
        f'<defs><marker id="go-{name}" viewBox="0 0 10 10" refX="6" refY="5" markerWidth="6" markerHeight="6" '
        'orient="auto">'
        '<path class="gotip" d="M0 0 L10 5 L0 10 z"/></marker></defs>'
    )
    drawn = "".join(parts).replace("#GO", f"#go-{name}")
    return f'<svg viewBox="-20 0 340 200" aria-hidden="true">{marker}{drawn}</svg>'


def _thing(kind: str, x: int, y: int) -> str:
    """A sheet of paper, a cross for a whiteout, or nothing."""
    labels = {"file": "file", "new": "new", "copy": "changed copy", "changed": "changed", "old": "old, hidden"}
    if kind in labels:
        style = {"file": "sheet", "old": "sheet faint"}.get(kind, "sheet fresh")
        label = labels[kind]
        return (
            f'<path class="{style}" d="M{x - 58} {y - 15} h15 l7 7 v22 h-22 z M{x - 43} {y - 15} v7 h7"/>'
            f'<text class="small" x="{x - 24}" y="{y + 4}">{label}</text>'
        )
    words = {"whiteout": "whiteout: “not here”", "opaque": "opaque: “look no further”", "gone": "nothing", "empty": "—"}
    css = "small strongish" if kind in ("whiteout", "opaque") else "small faintish"
    return f'<text class="{css}" x="{x}" y="{y + 4}" text-anchor="middle">{words[kind]}</text>'
