"""Progress of long work, on stderr so that stdout stays for results."""

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def progress_bar() -> Progress:
    """Returns a Rich progress bar with rate of completion, elapsed and remaining time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def track_progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` while a progress bar on stderr counts them."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress_bar() as bar:
        yield from bar.track(items, total=total, description=description)
