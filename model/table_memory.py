"""What the embedding tables take, before they are made."""

from dataclasses import dataclass

from cmdcm.core.config import ModelConfig
from cmdcm.core.errors import ConfigError
from cmdcm.core.memory import free_memory
from cmdcm.features.spec import FeatureSpec

BYTES = 4
"""Of a number: float32."""

NUMBERS = {"adagrad": 2, "clippy_adagrad": 2, "ftrl": 3}
"""By optimizer, of each weight in training: itself and its slots, an accumulator and of FTRL a
linear term too."""

KEY_BYTES = 16
"""Of a known id in its list: int64, and a checkpoint's copy."""


@dataclass(frozen=True)
class TableSize:
    """One embedding table.

    Attributes:
        name: Its name in the feature spec.
        rows: Its rows.
        size: Bytes that training it takes.
        listed: Whether its ids are listed, one row each.
    """

    name: str
    rows: int
    size: int
    listed: bool = False


def table_sizes(
    spec: FeatureSpec, config: ModelConfig, optimizer: str = "adagrad", background: bool = True
) -> list[TableSize]:
    """Returns the tables of a model, the largest first.

    Args:
        spec: The features.
        config: The model.
        optimizer: Of the tables.
        background: Whether checkpoints are written in the background, from a copy of weights and
            slots that stays in memory; else one of them is copied at a time.

    Example:
        >>> from cmdcm.features.spec import Feature
        >>> user = Feature(name="user_id", dtype="int64", side="user", encoding="hash",
        ...                buckets=1000, table="user")
        >>> table_sizes(FeatureSpec(features=(user,)), ModelConfig(embedding_dim=8))
        [TableSize(name='user', rows=1000, size=128000, listed=False)]
    """
    numbers = NUMBERS[optimizer]
    width = config.embedding_dim * BYTES * (2 * numbers if background else numbers + 1)
    listed = {f.table for f in spec.inputs if f.encoding == "known"}
    sizes = [
        TableSize(name, rows, rows * (width + KEY_BYTES * (name in listed)), name in listed)
        for name, rows in spec.tables().items()
    ]
    return sorted(sizes, key=lambda table: -table.size)


def check_tables(tables: list[TableSize], servers: int = 1, free: int | None = None) -> str:
    """Checks that the tables fit into memory.

    Args:
        tables: From `table_sizes`.
        servers: Parameter servers that share them, each with as much memory as this host; 1 for a
            run without.
        free: Bytes that can be had; by default `free_memory`, of main memory. That of a GPU is not
            looked at: TensorFlow reports it too late.

    Returns:
        A line that says what they take.

    Raises:
        ConfigError: They do not fit; names the largest and the rows that would.
    """
    free = free_memory() if free is None else free
    total = sum(table.size for table in tables)
    listed = ", ".join(
        f"{t.name} {t.rows:,} {'known ids' if t.listed else 'rows'} {_megabytes(t.size)}"
        for t in tables
    )
    shared = f" on each of {servers} parameter servers" if servers > 1 else ""
    if total <= free * servers:
        return f"embedding tables take {_megabytes(total // servers)}{shared} in training: {listed}"
    largest = tables[0]
    fitting = (largest.size - (total - free * servers)) * largest.rows // largest.size
    advice = (
        f"raise tables.min_count until it has at most {fitting:,}"
        if fitting > 0 and largest.listed
        else f"give it at most {fitting:,} buckets"
        if fitting > 0
        else "no size of it alone would do: shrink the others too"
    )
    raise ConfigError(
        f"the embedding tables take {_megabytes(total)} in training and {_megabytes(free)} are "
        f"free{shared}. The largest, {largest.name!r}, has {largest.rows:,} rows; {advice}, lower "
        f"model.embedding_dim, or train with training.strategy=parameter_server. All: {listed}"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
