"""The year on one page: each decision, what was done to it, and whether it is the handbook's."""

from collections import Counter
from collections.abc import Sequence

import cmdcm
from cmdcm.jobs.report import template
from cmdcm.jobs.retrain.decision import FRESH
from cmdcm.jobs.tables import Table
from cmdcm.jobs.year.verdicts import Attempt, Invariant

TITLE = "The year in a box"


def page(attempts: Sequence[Attempt], held: Sequence[Invariant], seconds: float) -> str:
    """Returns the page; it loads nothing, and all text is escaped."""
    return template("year.html.j2").render(
        version=cmdcm.__version__,
        title=TITLE,
        notes=notes(attempts, held, seconds),
        invariants=held,
        attempts=attempts,
        tables=[_promotions(attempts)],
    )


def notes(attempts: Sequence[Attempt], held: Sequence[Invariant], seconds: float) -> list[str]:
    """Returns the year in sentences."""
    faults = [a for a in attempts if a.fault]
    wrong = [a for a in attempts if a.faults()]
    broken = [i.name for i in held if not i.held]
    outcomes = Counter(a.outcome for a in attempts)
    return [
        f"{len(attempts)} runs for {len({a.promotion for a in attempts})} promotions, "
        f"{len(faults)} under a fault, in {seconds / 60:.0f} minutes: "
        + ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        + ".",
        f"{len(attempts) - len(wrong)} of {len(attempts)} decisions are what the handbook says"
        + (f"; not those of {', '.join(a.as_of for a in wrong)}." if wrong else "."),
        "All invariants held." if not broken else f"Broken: {'; '.join(broken)}.",
        "Faults are done to the real thing: the delivered log is edited, the process is killed, "
        "the server is stopped, flushing to the disk fails. The job, the gate, the export and the "
        "server are those of production; the world, the clock and the bounds are the year's.",
    ]


def _promotions(attempts: Sequence[Attempt]) -> Table:
    rows = []
    for promotion in dict.fromkeys(a.promotion for a in attempts):
        of = [a for a in attempts if a.promotion == promotion]
        fresh = [a for a in of if a.outcome in FRESH]
        rows.append(
            (
                promotion,
                str(len(of)),
                ", ".join(a.fault.replace("_", " ") for a in of if a.fault) or "none",
                fresh[0].as_of if fresh else "never",
                ", ".join(str(a.version) for a in fresh),
                str(of[-1].after),
            )
        )
    columns = ("promotion", "runs", "faults", "fresh model as of", "versions", "serves at the end")
    return Table("Promotions", columns, tuple(rows))
