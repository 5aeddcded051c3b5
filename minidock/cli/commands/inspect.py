"""minidock inspect"""

from __future__ import annotations

from minidock.cli.failures import report
from minidock.cli.output import write_error
from minidock.cli.report import write_documents
from minidock.cli.session import open_root
from minidock.errors import NoSuchContainer, NoSuchImage, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.root import DataRoot


# docker's client ends so for inspect alone.
_BAD_TEMPLATE_STATUS = 64


def handle(options: dict[str, Any]) -> int:
    """Show what is recorded of images and containers; what is not found is told after the rest."""
    kind = options["type"] or ""
    if kind not in ("", "image", "container"):
        raise UsageError(f'"{kind}" is not a valid value for --type', hint="image or container")
    if options["format"] not in (None, "json"):
        from minidock.cli.gotemplate import Template, TemplateSyntax

        try:
            Template(options["format"])
        except TemplateSyntax as error:
            report(error)
            return _BAD_TEMPLATE_STATUS
    found: list[Any] = []
    absent: list[str] = []
    with open_root(options, write=False) as root:
        for name in options["names"]:
            try:
                found.append(_inspect(root, name, kind, size=bool(options.get("size"))))
            except (NoSuchContainer, NoSuchImage):
                absent.append(name)
    if found or options["format"] is None:
        write_documents(found, options["format"])
    for name in absent:
        write_error(f"minidock: No such {kind or 'object'}: {name}")
    return 1 if absent else 0


def _inspect(root: DataRoot, name: str, kind: str, *, size: bool) -> dict[str, Any]:
    # docker asks for containers first
    if kind != "image":
        from minidock.verbs.inspect_container import inspect_container

        try:
            return inspect_container(root, name)
        except NoSuchContainer:
            if kind:
                raise
    from minidock.verbs.inspect import inspect_image

    return inspect_image(root, name)
