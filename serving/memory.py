"""Memory that was freed, given back to the system.

glibc keeps freed memory in an arena for each few threads. Versions are loaded by one thread or
another, so that without this each arena would come to hold what a load takes.
"""

import ctypes


def give_back_freed_memory() -> None:
    """Gives freed memory back; does nothing where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # without Python's global lock
