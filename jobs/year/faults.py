"""What goes wrong in the year, and what the handbook says the job does then."""

from collections.abc import Mapping
from dataclasses import dataclass

from cmdcm.core.errors import ConfigError

LEAD, NIGHT = "lead", "night"
"""The job before the window opens, which makes a fresh model; and one inside the window."""

KILLED = "killed"
"""The outcome of a job whose process is gone: it decided nothing."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        name: Its name.
        job: The job that meets it: `lead` or `night`.
        injected: What is done to the log, the disk, the process or the server.
        outcome: What the job has to decide.
        cause: What its reason has to name; `{day}`, `{month}` and `{target}` stand for the day and
            month of the fault's events and the server's address.
        handbook: What the handbook says of it, and where.
        mended: What is done before the job runs again.
        days_later: Days from the job to the one after mending; 0 for the same command again.
    """

    name: str
    job: str
    injected: str
    outcome: str
    cause: str
    handbook: str
    mended: str
    days_later: int = 0


_FAULTS = (
    Fault(
        "missing_day",
        NIGHT,
        "no event of {day} is in the log",
        "failed",
        "1 days without an event: {day}",
        "retraining.md, check: a missing day is refused; the serving model stays",
        "the day is delivered",
    ),
    Fault(
        "schema_change",
        NIGHT,
        "in the month's file the column item_id is called sku",
        "failed",
        "{month}.parquet",
        "retraining.md: bad data ends the job; the page names step and cause",
        "the file is delivered with the contract's columns",
    ),
    Fault(
        "drifted_prices",
        NIGHT,
        "all prices of {day} are a hundred times as high",
        "failed",
        "{day} has a median price of",
        "retraining.md, check: drifted prices are refused",
        "the day is delivered in the log's currency",
    ),
    Fault(
        "label_outage",
        NIGHT,
        "no purchase of {day} is in the log",
        "failed",
        "{day} has 0 events purchase",
        "retraining.md, check: an outage is refused",
        "the purchases are delivered",
    ),
    Fault(
        "inflated_carts",
        NIGHT,
        "every click of {day} is followed by a cart of the same item",
        "failed",
        "events cart for",
        "retraining.md, check: inflated kinds are refused",
        "the false carts are taken out",
    ),
    Fault(
        "late_data",
        LEAD,
        "half of the purchases of the promotion day {day} have not arrived",
        "refused",
        "pcoc delayed",
        "gate.md: calibration that is off by the missing labels refuses; retraining.md, during the "
        "window: late events make a new candidate",
        "they arrive a day later",
        days_later=1,
    ),
    Fault(
        "killed_worker",
        LEAD,
        "SIGKILL to the job's process in its training",
        KILLED,
        "SIGKILL",
        "retraining.md: a job that was killed goes on where it was; the lock of a dead process "
        "is taken at once",
        "the same command again",
    ),
    Fault(
        "full_disk",
        LEAD,
        "the base path's disk has no space left: flushing a file there is ENOSPC",
        "failed",
        "no space left",
        "retraining.md: disk, exit code 7; nothing half-written is published",
        "space is freed",
    ),
    Fault(
        "broken_export",
        LEAD,
        "bytes of the published version's graph are flipped before it is checked",
        "failed",
        "SHA-256 differs",
        "retraining.md, infra: checks the published bytes before clients see them",
        "the same command again publishes anew",
    ),
    Fault(
        "server_down",
        LEAD,
        "the server is stopped when the job pushes",
        "failed",
        "{target}",
        "retraining.md: servers, exit code 6; rollout.md: all servers or none",
        "the server is started again from its model config file",
    ),
)

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _FAULTS}
"""The faults by name."""


def fault_named(name: str) -> Fault:
    """Returns a fault.

    Raises:
        ConfigError: There is none of the name.
    """
    if name not in FAULTS:
        raise ConfigError(f"unknown fault {name!r}; there are {sorted(FAULTS)}")
    return FAULTS[name]
