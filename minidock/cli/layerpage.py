"""`explain --html`: a stack of layers as one HTML page without scripts, for someone who has never seen an overlay."""

from __future__ import annotations

from minidock.cli.layersvg import case_figure, hue_of, stack_figure, text_of
from minidock.cli.times import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.verbs.explain import ExplainedLayer, Explanation
    from minidock.verbs.layerfacts import StackFacts

_WIDE, _NARROW = 860, 400

_STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfd;--fg:#1c2430;--soft:#5d6877;--line:#d5dbe4;--card:#fff;--fill:92%;--edge:62%;
--accent:#c2410c;--accentbg:#ffedd5;--viewbg:#eef2f7;--badge:#1f2937;--badgefg:#fff;--fresh:#fdba74}
@media (prefers-color-scheme:dark){:root{--bg:#12161d;--fg:#e6eaf1;--soft:#9aa6b6;--line:#2c3542;--card:#1a202a;
--fill:20%;--edge:46%;--accent:#fb923c;--accentbg:#3b2312;--viewbg:#222a36;--badge:#dbe3ee;--badgefg:#12161d;
--fresh:#9a4a12}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif}
main{max-width:920px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:1.75rem;line-height:1.2;margin:.2em 0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.2em 0 .6em}
p{max-width:68ch}
.lead{color:var(--soft);margin-top:.2em}
.figure{background:var(--card);border:1px solid var(--line);border-radius:16px;padding:18px;margin:18px 0}
svg{display:block;width:100%;height:auto;font:14px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
svg text{fill:var(--fg)}
.strong{font-weight:650;font-size:15px}.small{font-size:12.5px}.tiny{font-size:11.5px}
.case .small{font-size:14px}svg text.small{fill:var(--soft)}svg text.strongish{fill:var(--fg);font-weight:600}
svg .badge{fill:var(--badge)}svg text.tiny{fill:var(--badgefg)}
svg text.bad{fill:#dc2626;font-weight:700}
svg .view{fill:var(--viewbg);stroke:var(--line)}
svg .layer{fill:hsl(var(--hue) 62% var(--fill));stroke:hsl(var(--hue) 45% var(--edge))}
svg .init{fill:var(--viewbg);stroke:var(--soft);stroke-dasharray:5 4}
svg .own{fill:var(--accentbg);stroke:var(--accent);stroke-width:1.6}
svg .look{stroke:var(--soft);stroke-width:1.6;fill:none}svg .tip{fill:var(--soft)}
svg .act{stroke:var(--accent);stroke-width:2.2;fill:none}svg .gotip{fill:var(--accent)}
svg .stop{stroke:#dc2626;stroke-width:2.6;fill:none;stroke-linecap:round}
svg .sheet{fill:var(--card);stroke:var(--fg);stroke-width:1.3;stroke-linejoin:round}
svg .fresh{fill:var(--fresh)}svg .faint{opacity:.4}
.narrow{display:none}
.cases{display:grid;grid-template-columns:repeat(auto-fit,minmax(255px,1fr));gap:14px}
.case{background:var(--card);border:1px solid var(--line);border-radius:16px;padding:14px 16px}
.case h3{font-size:1rem;margin:.1em 0 .5em}
.case p{font-size:.9rem;color:var(--soft);margin:.6em 0 .2em;overflow-wrap:anywhere}
code{font:.86em ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
.ids{border-left:5px solid hsl(var(--hue) 55% 55%);padding:.1em 0 .1em 14px;margin:16px 0}
.ids b{display:block;margin-bottom:.2em}
.ids div{display:grid;grid-template-columns:8.6em 1fr;gap:.15em 12px;font-size:.9rem;align-items:baseline}
.ids code{line-height:1.45}
.ids span{color:var(--soft)}
.key{color:var(--soft);font-size:.9rem}
.faults{border:1px solid #dc2626;border-radius:12px;padding:10px 16px;overflow-wrap:anywhere}
.own-ids{--hue:20}.case h3{white-space:nowrap}
footer{margin-top:3em;color:var(--soft);font-size:.85rem}
@media (max-width:640px){.wide{display:none}.narrow{display:block}main{padding:18px 12px 40px}
.figure{padding:12px}.ids div{grid-template-columns:1fr}.ids code{margin-bottom:.4em}h1{font-size:1.4rem}}
"""


def page(told: Explanation, facts: StackFacts) -> str:
    """The whole page."""
    name = told.container_name or told.reference or told.asked
    kind = "container" if told.kind == "container" else "image"
    size = human_size(sum(fact.size_bytes for fact in facts.layers))
    count = len(told.layers)
    parts = [
        "<!DOCTYPE html>\n",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{text_of(name)}: {count} layers</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{text_of(name)}</h1>",
        f'<p class="lead">{"A container" if kind == "container" else "An image"} of {count} '
        f"layer{'s' if count != 1 else ''}, {size} in all</p>",
        _faults(told),
        f"<p>{_introduction(kind)}</p>",
        f'<div class="figure"><div class="wide">{stack_figure(told, facts, _WIDE)}</div>'
        f'<div class="narrow">{stack_figure(told, facts, _NARROW)}</div></div>',
        '<p class="key"><b>+</b> names that a layer adds · <b>~</b> files it changes · <b>−</b> names it deletes. '
        f"{_hidden(facts)}</p>",
        "<h2>What happens when a container writes</h2>",
        "<p>The layers below are never changed, so any number of images and containers can stand on the same ones. All "
        "that a container writes lands in its own layer on top. There are three cases for a write, and two ways to "
        "make something disappear.</p>",
        f'<div class="cases">{_cases(facts.examples)}</div>',
        "<h2>From the name to the bytes</h2>",
        _identities(told),
        f"<footer>Read from <code>{text_of(told.root)}</code> by minidock explain --html; nothing was written "
        "there.</footer></main></body></html>\n",
    ]
    return "".join(parts)


def _introduction(kind: str) -> str:
    text = (
        "A layer is a directory with only what one step of a build added or changed. They lie on each other like glass "
        "plates: who looks from above sees for each name the topmost plate that has it, and everything together looks "
        "like one ordinary tree of files."
    )
    if kind == "image":
        return f"{text} A container that is made of this image gets one more, empty plate on top, to write on."
    return f"{text} The container writes on the topmost plate, and on no other."


def _faults(told: Explanation) -> str:
    if not told.faults:
        return ""
    lines = "".join(f"<li>{text_of(fault)}</li>" for fault in told.faults)
    return f'<div class="faults"><b>This data root is damaged:</b><ul>{lines}</ul></div>'


def _hidden(facts: StackFacts) -> str:
    hidden = sum(fact.hidden_bytes for fact in facts.layers)
    if not hidden:
        return "Nothing that a lower layer holds is hidden by one above."
    return f"{human_size(hidden)} of lower layers cannot be seen any more, since a layer above changed or deleted it."


def _cases(examples: dict[str, str]) -> str:
    lower = examples.get("lower") or examples.get("changed") or "/etc/hosts"
    cases = (
        (
            "1 · The file is only below",
            case_figure("copy", "copy", "old", "copy", "copy"),
            f"Changing <code>{text_of(lower)}</code>: the whole file is first copied up, then the copy is changed. "
            f"From then on it hides the old one. {_happened(examples, 'changed', 'That happened to')}",
        ),
        (
            "2 · It is in the own layer",
            case_figure("write", "changed", "empty", "changed", "write"),
            f"It is changed in place, at full speed. {_happened(examples, 'added', 'The topmost layer has')}",
        ),
        (
            "3 · There is no such file",
            case_figure("make", "new", "empty", "new", "make"),
            "It is made in the own layer. Nothing below knows of it.",
        ),
        (
            "Deleting what is below",
            case_figure("hide", "whiteout", "old", "gone", "hide"),
            "The file cannot be taken out of a layer below. A mark in the own layer, a whiteout, says that it is "
            f"gone; its room on the disk is not freed. {_happened(examples, 'whiteout', 'That happened to')}",
        ),
        (
            "Replacing a directory",
            case_figure("opaque", "opaque", "old", "new", "opaque"),
            "A directory that was removed and made again is marked opaque: nothing of the directory below shows "
            f"through. {_happened(examples, 'opaque', 'That happened to')}",
        ),
        (
            "Reading",
            case_figure("none", "empty", "file", "file", "none"),
            f"Costs nothing: <code>{text_of(lower)}</code> is opened right where it lies.",
        ),
    )
    return "".join(f'<div class="case"><h3>{title}</h3>{figure}<p>{words}</p></div>' for title, figure, words in cases)


def _happened(examples: dict[str, str], kind: str, words: str) -> str:
    return f"{words} <code>{text_of(examples[kind])}</code>." if kind in examples else ""


def _identities(told: Explanation) -> str:
    rows = []
    if told.reference:
        rows.append(("name", f"{told.reference} in image/overlay2/repositories.json"))
    if told.container_id:
        rows.append(("container", told.container_id))
        rows.append(("layers read from", told.mount_record))
    rows.append(("image ID", told.image_id or "unknown"))
    if told.config_path:
        rows.append(("the sha256 of", told.config_path))
    parts = [f'<div class="ids own-ids"><b>{text_of(told.asked)}</b>{_rows(rows)}</div>']
    parts += [_layer_identities(layer) for layer in told.layers]
    if told.options:
        parts.append(f'<div class="ids own-ids"><b>The mount of them all</b>{_rows([("options", told.options)])}</div>')
    return "".join(parts)


def _layer_identities(layer: ExplainedLayer) -> str:
    rows = [
        ("diff_id", layer.diff_id),
        ("chain ID", layer.chain_id),
        ("sha256 of", layer.hash_input),
        ("directory", layer.directory),
        ("read from", f"{layer.record}/cache-id" if layer.record else ""),
        ("short name", f"overlay2/l/{layer.link_id}" if layer.link_id else ""),
        ("lies on", ":".join(layer.lowers)),
        ("also of", ", ".join(layer.shared_with)),
        ("made by", layer.created_by),
    ]
    label = layer.label[0].upper() + layer.label[1:]
    style = f' style="--hue:{hue_of(layer)}"' if layer.role == "layer" else ' style="--hue:20"'
    return f'<div class="ids"{style}><b>{text_of(label)}</b>{_rows([row for row in rows if row[1]])}</div>'


def _rows(rows: list[tuple[str, str]]) -> str:
    return f"<div>{''.join(f'<span>{text_of(name)}</span><code>{text_of(value)}</code>' for name, value in rows)}</div>"
