"""Text files as blocks of whole lines, plain or gzip, in bounded memory."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from cmdcm.core.errors import DataError

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_OTHERS = {
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"PAR1": "a Parquet file; its format is parquet",
}
_MAGIC_BYTES = 4
_BYTE_ORDER_MARKS = re.compile(rb"^(?:\xef\xbb\xbf)+", re.MULTILINE)


def line_blocks(
    path: Path,
    block_bytes: int = BLOCK_BYTES,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[bytes]:
    r"""Yields the file's text in order, cut at line ends; every line ends with `\n`.

    Byte order marks are taken off (of every line: files may have been put together), `\r\n`
    becomes `\n`, and a gzip file (known by its first bytes, of one or more members) is unpacked.

    Args:
        path: The file.
        block_bytes: About the size of a block.
        on_bytes: Called with the number of bytes of the file that were read so far.

    Raises:
        DataError: The file is missing, empty, unreadable, a truncated or damaged gzip, or no text.
    """
    if path.is_dir():
        raise DataError(f"{path} is a directory; this format is read from one file")
    try:
        with path.open("rb") as stored:
            yield from _whole_lines(path, stored, block_bytes, on_bytes)
    except FileNotFoundError as error:
        raise DataError(f"input not found: {path}") from error
    except EOFError as error:
        raise DataError(
            f"{path} is a truncated gzip file: it ends before its compressed stream does. "
            "Fetch or copy it again."
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}. Fetch it again.") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _whole_lines(
    path: Path, stored: IO[bytes], block_bytes: int, on_bytes: Callable[[int], None] | None
) -> Iterator[bytes]:
    magic = stored.read(_MAGIC_BYTES)
    stored.seek(0)
    if not magic:
        raise DataError(f"{path} is empty")
    if magic in _OTHERS:
        raise DataError(f"{path} is {_OTHERS[magic]}")
    is_gzip = magic.startswith(_GZIP)
    stream: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=stored) if is_gzip else stored
    rest = b""
    while chunk := stream.read(block_bytes):
        if on_bytes:
            on_bytes(stored.tell())
        rest += chunk
        end = rest.rfind(b"\n") + 1
        if end:
            yield _tidy(rest[:end])
            rest = rest[end:]
        elif len(rest) > MAX_LINE_BYTES:
            raise DataError(f"{path} has a line of over {MAX_LINE_BYTES:,} bytes; is it a CSV?")
    if rest:
        yield _tidy(rest + b"\n")


def _tidy(block: bytes) -> bytes:
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    return block if block.isascii() else _BYTE_ORDER_MARKS.sub(b"", block)
