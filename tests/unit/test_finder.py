"""The short way to compiled modules: the same modules as the interpreter finds, and nothing that it would not."""

from __future__ import annotations

import ctypes
import ctypes._endian
import importlib.util
import marshal
import os
import py_compile
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minidock.finder import CompiledFinder, GivenFinder, code_of

PROJECT = Path(__file__).resolve().parents[2]
NAME = "minidock.made_up"
TEXT = "answer = 42\n"


def compiled(path: Path, text: str = TEXT, **options: Any) -> Path:
    """Write a source and compile it; the compiled file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return Path(str(py_compile.compile(str(path), doraise=True, **options)))


def test_a_module_is_what_the_interpreter_makes_of_it(tmp_path: Path) -> None:
    made = compiled(tmp_path / "made_up.py")
    spec = CompiledFinder.find_spec(NAME, [str(tmp_path)])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (module.answer, module.__file__, module.__name__) == (42, str(tmp_path / "made_up.py"), NAME)
    assert (module.__cached__, module.__package__) == (str(made), "minidock")
    assert spec.loader.get_source(NAME) == TEXT
    assert spec.loader.get_resource_reader is not None


def test_what_is_given_is_taken_before_the_files(tmp_path: Path) -> None:
    given = {NAME: (str(tmp_path / "made_up.py"), False, marshal.dumps(compile(TEXT, "made_up.py", "exec")))}
    finder = GivenFinder({**given, f"{NAME}s": (str(tmp_path / "made_ups/__init__.py"), True, given[NAME][2])})
    spec = finder.find_spec(NAME)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (module.answer, spec.submodule_search_locations) == (42, None)
    assert finder.find_spec(f"{NAME}s").submodule_search_locations == [str(tmp_path / "made_ups")]
    finder.given.clear()
    assert finder.find_spec(NAME) is None


def test_code_is_given_on_only_as_it_was_loaded(tmp_path: Path) -> None:
    source = compiled(tmp_path / "made_up.py").parents[1] / "made_up.py"
    spec = CompiledFinder.find_spec(NAME, [str(tmp_path)])
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[NAME])
        now = source.stat().st_ctime_ns + 1
        found = code_of([NAME], now)
        assert found is not None
        path, is_package, data = found[NAME]
        assert (path, is_package, marshal.loads(data).co_consts[0]) == (str(source), False, 42)
        assert code_of([NAME], now - 1) is None
        assert code_of([NAME, "minidock.not_there"], now) is None
        assert code_of([NAME, "sys"], now) is None
        source.write_text("answer = 43\n")
        assert code_of([NAME], now) is None
        source.unlink()
        assert code_of([NAME], now) is None
    finally:
        del sys.modules[NAME]


def test_a_package_is_known_as_one(tmp_path: Path) -> None:
    compiled(tmp_path / "made_up" / "__init__.py")
    compiled(tmp_path / "made_up" / "inner.py")
    spec = CompiledFinder.find_spec(NAME, [str(tmp_path)])
    assert spec.submodule_search_locations == [str(tmp_path / "made_up")]
    inner = CompiledFinder.find_spec(f"{NAME}.inner", spec.submodule_search_locations)
    assert (inner.parent, inner.submodule_search_locations) == (NAME, None)


@pytest.mark.parametrize("name", ["other", "other.made_up", "minidocker.made_up"])
def test_other_packages_are_none_of_its_business(tmp_path: Path, name: str) -> None:
    compiled(tmp_path / "made_up.py")
    assert CompiledFinder.find_spec(name, [str(tmp_path)]) is None
    assert CompiledFinder.find_spec(NAME, None) is None


def test_the_standard_library_is_found_where_it_is() -> None:
    for module in (struct, ctypes, ctypes._endian):
        path = None if module.__name__.count(".") == 0 else ctypes.__path__
        spec = CompiledFinder.find_spec(module.__name__, path)
        assert (spec.origin, spec.name) == (module.__file__, module.__name__)
        assert spec.submodule_search_locations == (list(module.__path__) if module is ctypes else None)
    for name in ("_ctypes", "sys", "no_such_module", "typer"):
        assert CompiledFinder.find_spec(name) is None


def test_what_is_in_the_interpreter_comes_first() -> None:
    """`runpy` is among the modules that are frozen into it, and none of those it starts with."""
    program = "import sys; sys.path.append(sys.argv[1]); from minidock.finder import install; install()\n"
    program += "assert 'runpy' not in sys.modules; import runpy; print(runpy.__spec__.origin)"
    words = [sys.executable, "-I", "-S", "-c", program, str(PROJECT)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "frozen\n"


def test_what_is_missing_old_or_damaged_is_left_to_the_interpreter(tmp_path: Path) -> None:
    source = tmp_path / "made_up.py"
    path = [str(tmp_path)]
    assert CompiledFinder.find_spec(NAME, path) is None
    made = compiled(source)
    whole = made.read_bytes()
    assert CompiledFinder.find_spec(NAME, path) is not None
    for data in (b"", whole[:10], whole[:16], whole[:-3], b"\0" * 4 + whole[4:], whole[:16] + b"\xff" * 40):
        made.write_bytes(data)
        assert CompiledFinder.find_spec(NAME, path) is None, data[:20]
    made.write_bytes(whole)
    os.utime(source, (0, 1_000_000_000))
    assert CompiledFinder.find_spec(NAME, path) is None
    compiled(source)
    source.write_text(TEXT + "more = 1\n")
    os.utime(source, (0, 1_000_000_000))
    assert CompiledFinder.find_spec(NAME, path) is None
    source.unlink()
    assert CompiledFinder.find_spec(NAME, path) is None


def test_one_checked_by_its_hash_is_left_to_the_interpreter(tmp_path: Path) -> None:
    compiled(tmp_path / "made_up.py", invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    assert CompiledFinder.find_spec(NAME, [str(tmp_path)]) is None


def test_a_change_of_a_source_is_seen_at_once(tmp_path: Path) -> None:
    """Without it the package would have to be compiled by hand after each edit."""
    package = tmp_path / "minidock"
    finder = Path(sys.modules["minidock.finder"].__file__ or "").read_text()
    compiled(package / "__init__.py", "")
    compiled(package / "finder.py", finder)
    program = "from minidock.finder import install; install(); import minidock.part; print(minidock.part.answer)"
    for answer in (1, 22, 333):
        (package / "part.py").write_text(f"answer = {answer}\n")
        words = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert done.stdout == f"{answer}\n"
