"""minidock inspect"""

from __future__ import annotations

from minidock.cli.failures import report
from minidock.cli.report import write_documents
from minidock.cli.session import Reading
from minidock.errors import FormatError, InvalidReference, MinidockError, NotFound, StoreCorrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.root import DataRoot

# docker's client ends so for inspect alone.
_BAD_TEMPLATE_STATUS = 64


def handle(options: dict[str, Any]) -> int:
    """Show what is recorded of images and containers; what is not found is told after the rest."""
    from minidock.verbs.inspect import inspect

    template = options["format"]
    if template not in (None, "json") and not _is_readable(template):
        return _BAD_TEMPLATE_STATUS
    found: list[dict[str, Any]] = []
    failure: MinidockError | None = None
    with Reading(options) as root:
        try:
            inspect(root, options["names"], type=options["type"] or None, found=found)
        except (NotFound, InvalidReference, FormatError, StoreCorrupt) as error:
            failure = error
        if options.get("size"):
            _add_sizes(root, found)
    if found or template is None:
        write_documents(found, template)
    if failure is None:
        return 0
    report(failure)
    return 1


def _is_readable(template: str) -> bool:
    from minidock.cli.gotemplate import Template, TemplateSyntax

    try:
        Template(template)
    except TemplateSyntax as error:
        report(error)
        return False
    return True


def _add_sizes(root: DataRoot, documents: list[dict[str, Any]]) -> None:
    from minidock.verbs.ps import ps

    for document in documents:
        for row in ps(root, all=True, filters=[f"id={document['Id']}"], size=True):
            document["SizeRw"] = row.size_bytes
            document["SizeRootFs"] = row.root_size_bytes
