"""Flushing a whole file system, without what `import ctypes` costs: a tenth of a short commit."""

from __future__ import annotations


def sync_file_system(handle: int) -> None:
    """Flush to the disk everything written so far to the file system that handle is open on.

    Raises: SyscallError
    Source: syncfs(2); CPython Modules/_ctypes/callproc.c, dlopen, dlsym and call_function
    """
    try:
        from _ctypes import call_function, dlopen, dlsym
    except ImportError:
        status = -1
    else:
        this_process = dlopen(None, 0)  # type: ignore[arg-type]
        status = call_function(dlsym(this_process, "syncfs"), (handle,))
    if status:
        # Once more, by the long way, which can tell the reason.
        import ctypes

        from minidock.linux.libc import declare

        declare("syncfs", ctypes.c_int)(handle)
