"""Numba intrinsics for code that reads and writes memory by address, and the CRC32C instruction.

Compiled code over Arrow buffers needs what Numba's arrays do not offer: many buffers of different
types chosen at run time, and unaligned words of 2 to 8 bytes. Each function here is one machine
instruction (or a memcpy); it works in compiled code alone and checks nothing, so its callers own
the memory they touch. Little-endian machines, as for TensorFlow.

Numba's cache on disk does not see a change of this file in code compiled elsewhere: after editing
it, delete the folders `__pycache__` beside its callers.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

HAS_CRC32C = bool(
    # A processor that somebody named for Numba by hand may lack the instruction.
    config.CPU_NAME is None and llvmlite.binding.get_host_cpu_features().get("sse4.2", False)
)
"""Whether compiled code may use `crc32c_u64` (SSE 4.2)."""

u64: Any = np.uint64
i64: Any = np.int64
"""Casts in compiled code. In plain Python their results would have NumPy's types; in compiled code
they are machine words, hence Any. The two never mix in one operation: that would be a float."""

_U64 = ir.IntType(64)


def _load(bits: int) -> Callable[[int], int]:
    @intrinsic
    def load(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            return builder.zext(builder.load(source, align=1), _U64)

        return types.uint64(types.int64), generate

    return load


def _store(bits: int) -> Callable[[int, int], None]:
    @intrinsic
    def store(typing_context: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            target = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            builder.store(builder.trunc(arguments[1], ir.IntType(bits)), target, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.uint64), generate

    return store


load_u8, load_u32, load_u64 = _load(8), _load(32), _load(64)
"""Load a word at an address; the result is a uint64."""

store_u8, store_u16, store_u32, store_u64 = _store(8), _store(16), _store(32), _store(64)
"""Store the low bits of a uint64 as a word at an address."""


@intrinsic
def copy(typing_context: Any, target: Any, source: Any, size: Any) -> Any:
    """Copies `size` bytes between addresses that do not overlap."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (builder.inttoptr(a, cgutils.voidptr_t) for a in arguments[:2])
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """Turns an address into the pointer that `numba.carray` takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@intrinsic
def crc32c_u64(typing_context: Any, crc: Any, word: Any) -> Any:
    """Advances a CRC32C (before its final inversion) over the 8 bytes of `word`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_U64, [_U64, _U64]), "llvm.x86.sse42.crc32.64.64"
        )
        return builder.call(function, arguments)

    return types.uint64(types.uint64, types.uint64), generate
