"""C's types and functions for system calls: what of ctypes they take, straight from its extension module.

`ctypes` itself is a thousand lines of Python around `_ctypes`, nearly all of it for other systems and for what no
system call needs; to load it takes a tenth of a short command. The names are those of ctypes, and so is what they do.
Only for machines on which long and pointers have eight bytes, as all that this package runs on.

Source: CPython Lib/ctypes/__init__.py and Modules/_ctypes, the same from 3.11 to 3.14
"""

from __future__ import annotations

from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_PYTHONAPI, FUNCFLAG_USE_ERRNO, CFuncPtr, dlopen, dlsym

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import (
        Array,
        Structure,
        addressof,
        byref,
        c_char,
        c_char_p,
        c_int,
        c_long,
        c_size_t,
        c_ssize_t,
        c_uint,
        c_uint32,
        c_uint64,
        c_ulong,
        c_ushort,
        c_void_p,
        create_string_buffer,
        get_errno,
        sizeof,
    )
    from typing import Any
else:
    from _ctypes import Array, Structure, _SimpleCData, addressof, byref, get_errno, sizeof

    class c_char(_SimpleCData):
        """char"""

        _type_ = "c"

    class c_char_p(_SimpleCData):
        """char *"""

        _type_ = "z"

    class c_void_p(_SimpleCData):
        """void *"""

        _type_ = "P"

    class c_ushort(_SimpleCData):
        """unsigned short"""

        _type_ = "H"

    class c_int(_SimpleCData):
        """int"""

        _type_ = "i"

    class c_uint(_SimpleCData):
        """unsigned int"""

        _type_ = "I"

    class c_long(_SimpleCData):
        """long"""

        _type_ = "l"

    class c_ulong(_SimpleCData):
        """unsigned long"""

        _type_ = "L"

    c_uint32 = c_uint
    c_uint64 = c_size_t = c_ulong
    c_ssize_t = c_long

    def create_string_buffer(init, size=None):
        """An array of bytes with room for a NUL, or one of a given size."""
        if isinstance(init, int):
            return (c_char * init)()
        buffer = (c_char * (len(init) + 1 if size is None else size))()
        buffer.value = init
        return buffer


__all__ = (
    "Array",
    "Structure",
    "addressof",
    "byref",
    "c_char",
    "c_char_p",
    "c_int",
    "c_long",
    "c_size_t",
    "c_ssize_t",
    "c_uint",
    "c_uint32",
    "c_uint64",
    "c_ulong",
    "c_ushort",
    "c_void_p",
    "create_string_buffer",
    "function",
    "get_errno",
    "sizeof",
)


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = c_int


class _LockedFunction(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI | FUNCFLAG_USE_ERRNO
    _restype_ = c_int


_PROGRAM = dlopen(None, 0)  # type: ignore[arg-type]


def function(name: str, restype: Any, argtypes: Any = None, *, locked: bool = False) -> Any:
    """A function of the C library, which keeps errno for get_errno.

    Shape:  restype and argtypes as ctypes has them; locked: the interpreter's lock stays held during the call
    Raises: AttributeError where the library has none of this name
    """
    try:
        address = dlsym(_PROGRAM, name)
    except OSError as error:
        raise AttributeError(str(error)) from None
    made = (_LockedFunction if locked else _Function)(address)
    made.restype = restype
    if argtypes is not None:
        made.argtypes = argtypes
    return made
