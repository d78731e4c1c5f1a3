"""Where data lies: a local path, or a URL of any file system that fsspec knows.

`s3://bucket/events`, `gs://...`, `abfs://...`, `hdfs://...`, `memory://...` and the like need the
fsspec package of their file system (`pip install s3fs`, `gcsfs`, ...) and its own credentials.
"""

from pathlib import Path

from upath import UPath

from cmdcm.core.errors import ConfigError

Location = Path | UPath
"""Both have the interface of `pathlib.Path` for reading."""


def location(text: str) -> Location:
    """Returns the local path, or the remote location of a URL.

    Raises:
        ConfigError: The URL's file system is unknown, or its package is not installed.

    Example:
        >>> location("file:///data/events"), location("memory://data/events").name
        (PosixPath('/data/events'), 'events')
    """
    if "://" not in text:
        return Path(text)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    try:
        path = UPath(text)
        path.fs  # noqa: B018 - makes the file system, which may not be installed
        return path
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot open {text}: {error}") from error


def is_remote(place: Location) -> bool:
    """Returns whether a location is not a local path."""
    return not isinstance(place, Path)
