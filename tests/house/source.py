"""The project's own source, read once: its files, their floors, their imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = PROJECT / "minidock"

# Higher numbers may import lower ones; a floor may import within itself.
FLOORS = {
    "errors": 0,
    "ids": 0,
    "constants": 0,
    "trace": 0,
    "finder": 0,
    "linux": 1,
    "formats": 2,
    "store": 3,
    "runtime": 4,
    "network": 4,
    "verbs": 5,
    "cli": 6,
    "__main__": 6,
}


@cache
def package_files() -> tuple[Path, ...]:
    """Every Python file of the package."""
    return tuple(sorted(PACKAGE.rglob("*.py")))


@cache
def project_files() -> tuple[Path, ...]:
    """Every Python file of the package and the tests."""
    return (*package_files(), *sorted((PROJECT / "tests").rglob("*.py")))


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of one file."""
    return ast.parse(path.read_text(), str(path))


def place(path: Path, node: ast.AST | int = 1) -> str:
    """`file:line`, as messages name a spot."""
    line = node if isinstance(node, int) else getattr(node, "lineno", 1)
    return f"{path.relative_to(PROJECT)}:{line}"


def module_of(path: Path) -> str:
    """The dotted name of a package file."""
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> int | None:
    """The floor of a minidock module; None for the package itself."""
    parts = module.split(".")
    return FLOORS[parts[1]] if len(parts) > 1 else None


def _is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def walk_code(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that can run: what is below `if TYPE_CHECKING:` is left out."""
    yield node
    for child in ast.iter_child_nodes(node):
        if _is_typing_only(child):
            for part in getattr(child, "orelse", []):
                yield from walk_code(part)
        else:
            yield from walk_code(child)


def imports_of(path: Path, *, typing_too: bool = False) -> list[tuple[str, int]]:
    """The absolute names that a file imports, with their lines: modules, and `module.name` for each `from`."""
    found: list[tuple[str, int]] = []
    tree = tree_of(path)
    for node in ast.walk(tree) if typing_too else walk_code(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module_of(path).split(".")
                parts = parts if path.name == "__init__.py" else parts[:-1]
                kept = parts[: len(parts) - node.level + 1]
                base = ".".join([*kept, base] if base else kept)
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return found
