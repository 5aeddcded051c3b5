"""Imports go down only, and third parties stay in the rooms that use them."""

from __future__ import annotations

import sys

import pytest

from tests.house import source

# Where each third-party package may be imported; nowhere else.
THIRD_PARTIES = {
    "typer": ("minidock.cli",),
    "click": ("minidock.cli",),
    "rich": ("minidock.cli",),
    "pyroute2": ("minidock.network",),
    "magic": ("minidock.formats.compression",),
    "isal": ("minidock.formats.compression", "minidock.formats.tarsplit", "minidock.store"),
    "fastcrc": ("minidock.formats.crc64",),
    "backports": ("minidock.formats.compression",),
    "compression": ("minidock.formats.compression",),
}

# What a floor may not import, although the standard library has it.
FORBIDDEN = {
    "minidock.store": ("subprocess", "minidock.runtime"),
    "minidock.formats": ("subprocess", "socket", "tarfile"),
    "minidock.linux": ("subprocess",),
    "minidock.runtime": ("subprocess", "minidock.store.imagedb", "minidock.store.references"),
    "minidock.verbs": ("argparse", "minidock.cli"),
}


def _is_below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def test_imports_go_down() -> None:
    breaches = []
    for path in source.package_files():
        module = source.module_of(path)
        floor = source.floor_of(module)
        for name, line in source.imports_of(path, typing_too=True):
            if not name.startswith("minidock."):
                continue
            imported = source.floor_of(name) if name.split(".")[1] in source.FLOORS else None
            if floor is None or (imported is not None and imported > floor):
                breaches.append(f"{source.place(path, line)} imports {name} from a floor above")
    assert not breaches, "\n".join(breaches)


def test_every_room_has_a_floor() -> None:
    rooms = {path.relative_to(source.PACKAGE).parts[0].removesuffix(".py") for path in source.package_files()}
    assert rooms - {"__init__"} <= set(source.FLOORS)


def test_the_package_itself_loads_nothing() -> None:
    assert [name for name, _ in source.imports_of(source.PACKAGE / "__init__.py")] in ([], ["__future__.annotations"])


def test_modules_do_not_import_in_circles() -> None:
    files = {source.module_of(path): path for path in source.package_files()}
    edges: dict[str, set[str]] = {}
    for module, path in files.items():
        # An import inside a function is made at the time of use and closes no circle.
        edges[module] = set()
        for node in source.tree_of(path).body:
            for name, line in source.imports_of(path):
                if line == node.lineno and (name in files or name.rpartition(".")[0] in files):
                    target = name if name in files else name.rpartition(".")[0]
                    edges[module].add(target)
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for target in sorted(edges[module] - {module}):
                visit(target, (*way, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_third_parties_stay_in_their_rooms() -> None:
    breaches = []
    for path in source.package_files():
        module = source.module_of(path)
        for name, line in source.imports_of(path):
            top = name.partition(".")[0]
            if top == "minidock" or top in sys.stdlib_module_names and top != "compression":
                continue
            if not _is_below(module, THIRD_PARTIES.get(top, ())):
                breaches.append(f"{source.place(path, line)} imports {name}")
    assert not breaches, "\n".join(breaches)


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_floors_do_not_import_what_is_not_theirs(package: str) -> None:
    breaches = [
        f"{source.place(path, line)} imports {name}"
        for path in source.package_files()
        if _is_below(source.module_of(path), (package,))
        for name, line in source.imports_of(path)
        if _is_below(name, FORBIDDEN[package])
    ]
    assert not breaches, "\n".join(breaches)
