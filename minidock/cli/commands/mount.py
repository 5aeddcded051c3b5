"""minidock mount"""

from __future__ import annotations

from minidock.cli.format import write_table
from minidock.cli.output import short_id, write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.views import View


def handle(options: dict[str, Any]) -> int:
    """Mount a read-only view, or list those that are mounted."""
    from minidock.cli.report import to_json
    from minidock.verbs.mount import mount, views

    with open_root(options, write=False) as root:
        if options["name"] is None:
            found = views(root)
        else:
            found = [mount(root, options["name"], options["directory"] or "")]
    if options["json"]:
        document: Any = [_document(view) for view in found]
        write_line(to_json(document if options["name"] is None else document[0]))
    elif options["name"] is not None:
        write_line(found[0].target)
    else:
        rows = [[view.kind, short_id(view.identity), view.target] for view in found]
        write_table([(title, "") for title in ("KIND", "ID", "DIRECTORY")], rows)
    return 0


def _document(view: View) -> dict[str, str]:
    return {"Kind": view.kind, "Id": view.identity, "Directory": view.target, "Root": view.root_path}
