"""minidock container prune, image prune, network prune, volume prune and system prune"""

from __future__ import annotations

import os

from minidock.cli.failures import check_filters
from minidock.cli.output import write, write_error, write_line
from minidock.cli.session import open_root
from minidock.cli.times import human_size
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.root import DataRoot
    from minidock.verbs.prune import Pruned, PruneFilter

_IMAGES = {False: "all dangling images", True: "all images without at least one container associated to them"}
_ANONYMOUS = "all anonymous volumes not used by at least one container"
_WARNINGS = {
    "container": "all stopped containers",
    "network": "all custom networks not used by at least one container",
    "volume": "anonymous local volumes not used by at least one container",
}


def handle(options: dict[str, Any]) -> int:
    """Ask, remove, and tell what went and how much it was."""
    what = options["what"]
    chosen = _read_filter(what, options["filter"])
    if what == "system" and options["volumes"] and chosen.until_ns is not None:
        raise UsageError('ERROR: The "until" filter is not supported with "--volumes"')
    with open_root(options) as root:
        if not options["force"] and not _confirm(_warning(what, options)):
            if what not in ("system", "network"):
                write_line("Total reclaimed space: 0B")
            return 0
        _show(_prune(root, what, options, chosen), has_size=what != "network")
    return 0


def _prune(root: DataRoot, what: str, options: dict[str, Any], chosen: PruneFilter) -> Pruned:
    from minidock.verbs import prune
    from minidock.verbs.volume import prune_volumes

    if what == "container":
        return prune.prune_containers(root, chosen)
    if what == "image":
        return prune.prune_images(root, chosen, all=options["all"])
    if what == "system":
        return prune.prune_system(root, chosen, all=options["all"], volumes=options["volumes"])
    pruned = prune.Pruned()
    if what == "network":
        from minidock.verbs.network import prune_networks

        pruned.networks = prune_networks(root, until_ns=chosen.until_ns, labels=chosen.labels, without=chosen.without)
        return pruned
    pruned.volumes, pruned.reclaimed_bytes = prune_volumes(
        root, all=options["all"], labels=chosen.labels, without=chosen.without
    )
    return pruned


def _read_filter(what: str, texts: list[str]) -> PruneFilter:
    from minidock.cli.spans import parse_moment
    from minidock.verbs.prune import PruneFilter

    chosen = PruneFilter()
    check_filters(texts)
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError("bad format of filter (expected name=value)")
        if key == "label":
            chosen.labels.append(value)
        elif key == "label!":
            chosen.without.append(value)
        elif key == "until" and what != "volume":
            chosen.until_ns = parse_moment(value)
            if chosen.until_ns is None:
                raise UsageError(f"invalid filter 'until={value}'")
        else:
            raise UsageError(f"Invalid filter '{key}'")
    return chosen


def _warning(what: str, options: dict[str, Any]) -> str:
    if what == "image":
        return f"This will remove {_IMAGES[options['all']]}."
    if what == "volume" and options["all"]:
        return "This will remove all local volumes not used by at least one container."
    if what != "system":
        return f"This will remove {_WARNINGS[what]}."
    networks = "all networks not used by at least one container"
    lines = ["all stopped containers", networks, *([_ANONYMOUS] if options["volumes"] else []), _IMAGES[options["all"]]]
    text = "This will remove:\n" + "".join(f"  - {line}\n" for line in lines)
    if options["filter"]:
        text += "\n  Items to be pruned will be filtered with:\n"
        text += "".join(f"  - {condition}\n" for condition in options["filter"])
    return text


def _confirm(warning: str) -> bool:
    write(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ")
    answer = os.read(0, 1024)
    return answer.strip().lower() == b"y"


def _show(pruned: Pruned, *, has_size: bool) -> None:
    for title, lines in (
        ("Containers", pruned.containers),
        ("Networks", pruned.networks),
        ("Volumes", pruned.volumes),
        ("Images", [f"{kind.lower()}: {text}" for kind, text in pruned.images]),
    ):
        if lines:
            write_line(f"Deleted {title}:")
            for line in lines:
                write_line(line)
            write("\n")
    for line in pruned.viewed:
        write_error(f"WARNING: {line}")
    if has_size:
        write_line(f"Total reclaimed space: {human_size(pruned.reclaimed_bytes, 4)}")
