"""Straight to the compiled files.

A command loads some sixty modules of this package and a few of the standard library, and the interpreter's own way to
each of them (lists of directories, eight objects, fifteen system calls) takes as long as what is in them. This way goes
to the same compiled file in the same place, and believes it by the same rule: that the source still has the time and
size it was made from. Whatever is not so plain, it leaves to the interpreter: a missing, old or damaged file, one
checked by its hash, an archive.

A process that is to go on as another program takes its code along, see GivenFinder: the package's files may be replaced
at any moment, by an upgrade.
Source: Lib/importlib/_bootstrap_external.py, SourceLoader.get_code, _classify_pyc, _validate_timestamp_pyc
"""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType
    from typing import Any

_PACKAGE = __name__.rpartition(".")[0]
_STANDARD = (os.path.dirname(os.__file__),)
_SUFFIX = f".{sys.implementation.cache_tag}.pyc"
# What a file of this interpreter's begins with whose source is checked by time and size.
_HEAD = MAGIC_NUMBER + bytes(4)
_HEAD_BYTES = 16


class _Loader(SourceFileLoader):
    """The interpreter's loader, which has been given the code."""

    code: CodeType

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code, and let go of it."""
        code = self.code
        del self.code
        exec(code, module.__dict__)


class CompiledFinder:
    """Finds what lies below this package, and modules of the standard library; for sys.meta_path."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> Any:
        """The module's specification, None where the interpreter is to look."""
        above, _, tail = name.rpartition(".")
        package = above.partition(".")[0] or name
        if package in sys.stdlib_module_names:
            path = path or _STANDARD
        elif path is None or package != _PACKAGE:
            return None
        for folder in path:
            code = _read(f"{folder}/__pycache__/{tail}{_SUFFIX}", f"{folder}/{tail}.py")
            if code is not None:
                return _specification(name, f"{folder}/{tail}.py", f"{folder}/__pycache__/{tail}{_SUFFIX}", code)
            folder = f"{folder}/{tail}"
            code = _read(f"{folder}/__pycache__/__init__{_SUFFIX}", f"{folder}/__init__.py")
            if code is not None:
                made = _specification(name, f"{folder}/__init__.py", f"{folder}/__pycache__/__init__{_SUFFIX}", code)
                made.submodule_search_locations = [folder]
                return made
        return None


def _read(compiled: str, source: str) -> CodeType | None:
    """The code of a compiled file that was made of the source as it is now."""
    try:
        handle = os.open(compiled, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(handle, os.fstat(handle).st_size)
        found = os.stat(source)
    except OSError:
        return None
    finally:
        os.close(handle)
    made_from = (int(found.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little")
    made_from += (found.st_size & 0xFFFFFFFF).to_bytes(4, "little")
    if data[:_HEAD_BYTES] != _HEAD + made_from:
        return None
    try:
        code: CodeType = marshal.loads(memoryview(data)[_HEAD_BYTES:])
    except (EOFError, ValueError, TypeError):
        return None
    return code


def _specification(name: str, source: str, compiled: str, code: CodeType) -> Any:
    loader = _Loader(name, source)
    loader.code = code
    made = ModuleSpec(name, loader, origin=source)
    made.cached = compiled
    made.has_location = True
    return made


class GivenFinder:
    """Finds modules whose code has been handed over by another process.

    Shape: given: (source, whether it is a package, marshalled code) by name; what is taken out of it is looked for like
           any other module
    """

    def __init__(self, given: dict[str, tuple[str, bool, bytes | memoryview]]) -> None:
        self.given = given

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> Any:
        """The module's specification, None for one that has not been given."""
        if name not in self.given:
            return None
        source, is_package, data = self.given[name]
        folder, _, file = source.rpartition("/")
        compiled = f"{folder}/__pycache__/{file.removesuffix('.py')}{_SUFFIX}"
        made = _specification(name, source, compiled, marshal.loads(data))
        if is_package:
            made.submodule_search_locations = [folder]
        return made


def install(*, given: dict[str, tuple[str, bool, bytes | memoryview]] | None = None) -> None:
    """Ask these finders before any files are looked for, for the rest of the process."""
    # The last one looks through sys.path; those before it know what is in the interpreter itself.
    sys.meta_path.insert(-1, CompiledFinder)
    if given is not None:
        sys.meta_path.insert(0, GivenFinder(given))


def code_of(names: Sequence[str], loaded_ns: int) -> dict[str, tuple[str, bool, bytes]] | None:
    """The code of modules as it was loaded, for GivenFinder.

    Shape:   loaded_ns: a moment at which the first of them had been loaded
    Returns: None when one is not a compiled file, or has been changed since then: by an upgrade that is going on, say
    """
    found = {}
    try:
        for name in names:
            spec = sys.modules[name].__spec__
            if spec is None or spec.origin is None or not isinstance(spec.loader, SourceFileLoader):
                return None
            code = spec.loader.get_code(name)
            status = os.stat(spec.origin)
            if code is None or max(status.st_ctime_ns, status.st_mtime_ns) >= loaded_ns:
                return None
            found[name] = spec.origin, spec.submodule_search_locations is not None, marshal.dumps(code)
    except (ImportError, OSError, KeyError, SyntaxError):
        return None
    return found
