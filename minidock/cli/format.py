"""Listings: rows of named fields as a table, as JSON lines or through a Go template.

The plain table, which most calls want, is laid out without loading the template engine.
"""

from __future__ import annotations

from minidock.cli.output import escape_controls, layout, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    # (title, field)
    Column: TypeAlias = tuple[str, str]
    # A row tells a field's text by its name; KeyError for a name it does not have.
    Row: TypeAlias = Callable[[str], str]


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose cells are given in the columns' order."""
    lines: list[Sequence[str]] = [[title for title, _ in columns]]
    lines += [list(map(escape_controls, row)) for row in rows]
    write(layout(lines))


def write_listing(
    rows: Sequence[Row],
    columns: Sequence[Column],
    template: str | None,
    *,
    fields: Sequence[Column],
    methods: dict[str, Callable[[Row, str], str]] | None = None,
) -> None:
    """Print rows as docker's listings do.

    Shape:  columns are the plain table's; template as --format gives it, None or "table" for the plain table;
            fields are all that a template may name, with their titles; methods are fields that take an argument
    Raises: UsageError for a template that cannot be read or asks for what is not there
    """
    if template is None or template.strip() in ("", "table"):
        write_table(columns, [[row(field) for _, field in columns] for row in rows])
        return
    from minidock.cli.gofunctions import HEADER_FUNCTIONS
    from minidock.cli.gotemplate import Fields, Template

    if template == "json":
        template = "{{json .}}"
    is_table = template.startswith("table ")
    text = template.removeprefix("table").strip() if is_table else template
    text = text.replace("\\t", "\t").replace("\\n", "\n")
    lines: list[str] = []
    if is_table:
        titles = Fields({field: title for title, field in fields})
        titles.update(dict.fromkeys(methods or {}, _title_of_argument))
        lines.append(Template(text, HEADER_FUNCTIONS).render(titles))
    body = Template(text)
    for row in rows:
        values = Fields({field: escape_controls(row(field)) for _, field in fields})
        for name, method in (methods or {}).items():
            values[name] = _bound(method, row)
        lines.append(body.render(values))
    if is_table:
        write(layout([part.split("\t") for line in lines for part in line.split("\n")]))
    else:
        write("".join(line + "\n" for line in lines))


def _bound(method: Callable[[Row, str], str], row: Row) -> Callable[[str], str]:
    return lambda argument: escape_controls(method(row, argument))


def _title_of_argument(name: str) -> str:
    return name.rsplit(".", 1)[-1].replace("-", " ").replace("_", " ")
