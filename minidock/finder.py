"""Straight to the package's compiled files.

A command loads some sixty modules, and the interpreter's own way to each of them (lists of directories, eight objects,
fifteen system calls) takes as long as what is in them. This way goes to the same compiled file in the same place, and
believes it by the same rule: that the source still has the time and size it was made from. Whatever is not so plain, it
leaves to the interpreter: a missing, old or damaged file, one checked by its hash, an archive.
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

_PREFIX = __name__.rpartition(".")[0] + "."
_SUFFIX = f".{sys.implementation.cache_tag}.pyc"
# What a file of this interpreter's begins with whose source is checked by time and size.
_HEAD = MAGIC_NUMBER + bytes(4)
_HEAD_BYTES = 16


class _Loader(SourceFileLoader):
    """The interpreter's loader, which has been given the code."""

    code: CodeType

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        exec(self.code, module.__dict__)


class CompiledFinder:
    """Finds what lies below one package; for sys.meta_path."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> Any:
        """The module's specification, None where the interpreter is to look."""
        if path is None or not name.startswith(_PREFIX):
            return None
        tail = name.rpartition(".")[2]
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


def install() -> None:
    """Ask this finder first, for the rest of the process."""
    sys.meta_path.insert(0, CompiledFinder)
