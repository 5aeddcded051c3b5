"""Linter, formatter, type checker, and the rules of the house that they do not know."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.house import source

LINE_LIMIT = 450
FUNCTION_LIMIT = 100
FORBIDDEN_ROOMS = ("utils", "util", "helpers", "helper", "manager", "misc", "common")
OTHER_TOOLS = re.compile(r"\b(" + "|".join(("nerd" + "ctl", "uto" + "cker", "bo" + "cker")) + r")\b", re.IGNORECASE)
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME")) + r")\b")


def _tool(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=source.PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_linter() -> None:
    _tool("ruff", "check", ".")


def test_formatter() -> None:
    _tool("ruff", "format", "--check", ".")


def test_types() -> None:
    _tool("mypy")


def test_shell_scripts_parse() -> None:
    scripts = [source.PROJECT / script for script in ("tests/bootstrap", ".ci/run", "minidock/entry.sh")]
    for script in [*scripts, *source.PROJECT.glob("vm/**/*.sh"), *source.PROJECT.glob("tests/**/*.sh")]:
        subprocess.run(["sh", "-n", script], check=True)


def test_files_are_short() -> None:
    # What a program has written nobody need read in one sitting.
    written = [path for path in source.project_files() if path.name != "grammar_data.py"]
    lengths = {path: len(path.read_text().splitlines()) for path in written}
    long = [f"{source.place(path)} has {length} lines" for path, length in lengths.items() if length > LINE_LIMIT]
    assert not long, "\n".join(long)


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(source.tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_are_short() -> None:
    long = [
        f"{source.place(path, node)} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in source.package_files()
        for node in _functions(path)
        if node.end_lineno and node.end_lineno - node.lineno >= FUNCTION_LIMIT
    ]
    assert not long, "\n".join(long)


def _public(node: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public classes and functions of a module, and public methods of its public classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If | ast.Try):
            yield from _public(child, inside)
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or child.name.startswith("_"):
            continue
        marks = {ast.unparse(mark).rpartition(".")[2] for mark in child.decorator_list}
        if marks & {"overload", "setter", "override"}:
            continue
        yield inside + child.name, child
        if isinstance(child, ast.ClassDef):
            yield from _public(child, f"{child.name}.")


def _said_methods() -> dict[str, tuple[list[str], set[str]]]:
    """For each class of the package: the names of its bases, and its methods with a docstring."""
    classes = {}
    for path in source.package_files():
        for node in ast.walk(source.tree_of(path)):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
                classes[node.name] = (bases, {part.name for part in methods if ast.get_docstring(part)})
    return classes


def _is_override(name: str, classes: dict[str, tuple[list[str], set[str]]]) -> bool:
    """Whether a base says what this method does: one of ours in its docstring, a library's in its documentation."""
    kind, _, method = name.rpartition(".")
    for base in classes.get(kind, ([], set()))[0]:
        if base in ("object", "str", "Exception"):
            continue
        if base == "Protocol" or base not in classes or method in classes[base][1]:
            return True
        if _is_override(f"{base}.{method}", classes):
            return True
    return False


def test_public_things_say_what_they_are() -> None:
    silent = []
    classes = _said_methods()
    for path in source.package_files():
        tree = source.tree_of(path)
        if tree.body and not ast.get_docstring(tree):
            silent.append(f"{source.place(path)} the module")
        for name, node in _public(tree):
            assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if not ast.get_docstring(node) and not _is_override(name, classes):
                silent.append(f"{source.place(path, node)} {name}")
    assert not silent, "without a docstring:\n" + "\n".join(silent)


def test_docstrings_open_with_one_line() -> None:
    untidy = []
    for path in source.package_files():
        for name, node in _public(source.tree_of(path)):
            text = ast.get_docstring(node) or "."  # type: ignore[arg-type]
            first, _, rest = text.partition("\n")
            if rest and rest.partition("\n")[0].strip():
                untidy.append(f"{source.place(path, node)} {name}: the second line of a docstring is empty")
    assert not untidy, "\n".join(untidy)


def test_names_of_rooms() -> None:
    bad = [source.place(path) for path in source.project_files() if path.stem in FORBIDDEN_ROOMS]
    bad += [str(path) for path in source.PACKAGE.rglob("*") if path.is_dir() and path.name in FORBIDDEN_ROOMS]
    assert not bad, "\n".join(bad)


def test_nothing_is_left_unfinished() -> None:
    found = [
        f"{source.place(path, number)} {line.strip()}"
        for path in source.project_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not found, "\n".join(found)


def test_other_tools_are_not_named() -> None:
    texts = [*source.project_files(), *source.PROJECT.glob("*.md")]
    found = [
        f"{path}:{number}"
        for path in texts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if OTHER_TOOLS.search(line)
    ]
    assert not found, "\n".join(found)


def _calls(path: Path, *names: str) -> Iterator[str]:
    for node in ast.walk(source.tree_of(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield f"{source.place(path, node)} calls {ast.unparse(node.func)}"


def test_only_the_command_line_prints() -> None:
    quiet = [
        path for path in source.package_files() if source.module_of(path).split(".")[1:2] not in (["cli"], ["__main__"])
    ]
    found = [call for path in quiet for call in _calls(path, "print", "sys.stdout.write", "sys.stderr.write")]
    assert not found, "\n".join(found)


def test_only_main_exits() -> None:
    lower = [
        path
        for path in source.package_files()
        if source.module_of(path).split(".")[1:2] in (["verbs"], ["store"], ["formats"])
    ]
    found = [call for path in lower for call in _calls(path, "sys.exit", "exit", "quit")]
    assert not found, "\n".join(found)


def test_waits_are_bounded_and_skips_have_reasons() -> None:
    found = [call for path in source.project_files() for call in _calls(path, "time.sleep", "sleep")]
    found += [
        call for path in source.project_files() if path.name != "conftest.py" for call in _calls(path, "pytest.skip")
    ]
    assert not found, "\n".join(found)


def test_broad_excepts_raise_again_or_say_why() -> None:
    found = []
    for path in source.package_files():
        lines = path.read_text().splitlines()
        for node in ast.walk(source.tree_of(path)):
            if isinstance(node, ast.ExceptHandler):
                caught = "" if node.type is None else ast.unparse(node.type)
                raises_again = any(isinstance(part, ast.Raise) and part.exc is None for part in ast.walk(node))
                raises_again |= any(ast.unparse(part).startswith("os._exit(") for part in ast.walk(node))
                says_why = re.search(r"# noqa: BLE001\W+\w.{10,}", lines[node.lineno - 1])
                if caught in ("", "Exception", "BaseException") and not raises_again and not says_why:
                    found.append(f"{source.place(path, node)} except {caught}")
    assert not found, "\n".join(found)


def test_annotations_are_not_evaluated() -> None:
    missing = [
        source.place(path)
        for path in source.project_files()
        if source.tree_of(path).body[1:] and "from __future__ import annotations" not in path.read_text()
    ]
    missing = [spot for spot in missing if not spot.startswith("minidock/__init__.py")]
    assert not missing, "\n".join(missing)
