"""A search's results as Markdown and as one HTML page, from the same tables."""

from collections.abc import Mapping, Sequence

import cmdcm
from cmdcm.jobs.report import template
from cmdcm.jobs.tables import DIGITS, Table, number, text
from cmdcm.jobs.tune.folds import Fold
from cmdcm.jobs.tune.results import MIN_TRIALS, TOP, Row, best_of

LOSS = DIGITS["log_loss"]

_ORDER = ("complete", "pruned", "invalid", "failed", "unfinished")


def notes(rows: Sequence[Row], folds: Sequence[Fold], head: str, seed: int) -> list[str]:
    """Returns what a reader should know of the results.

    Args:
        rows: The trials; the baseline is complete.
        folds: The folds.
        head: Head whose log loss counts.
        seed: Seed of the search and of every training.
    """
    baseline, best = rows[0], best_of(rows)
    counts = {state: sum(row.state == state for row in rows) for state in _ORDER}
    shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    several = len(folds) > 1
    windows = f"the mean of {len(folds)} time-ordered folds" if several else "of one fold"
    remarks = [
        f"{len(rows)} trials: {shown}. Seed {seed}.",
        f"Objective: validation log loss of {head}, {windows}, before calibration. The test split "
        "was not read.",
    ]
    if best.number == 0:
        remarks.append("No trial is better than the given configuration (trial 0).")
    else:
        gain = number(best.difference, LOSS, signed=True)
        better = sum(b < a for a, b in zip(baseline.losses, best.losses, strict=True))
        remarks += [
            f"Trial {best.number} differs by {gain} from the given configuration (trial 0); it is "
            f"better in {better} of {len(folds)} folds.",
            f"That difference is optimistic: trial {best.number} is the best of "
            f"{counts['complete']} complete trials, chosen on the folds on which it is shown, with "
            "one training seed. Part of it is luck. Train both configurations with other seeds and "
            "compare them on the test split before relying on it.",
        ]
    if not several:
        remarks.append("With one fold no trial can be pruned, and nothing shows how folds differ.")
    return remarks


def tables(
    rows: Sequence[Row], folds: Sequence[Fold], importances: Mapping[str, float]
) -> list[Table]:
    """Returns the tables of a search."""
    best = best_of(rows)
    made = [_compared(rows[0], best, folds), _settings(rows[0], best), _trials(rows)]
    if importances:
        shares = tuple((name, number(share, 2)) for name, share in importances.items())
        caption = f"Importance for being among the best {TOP:.0%} (PED-ANOVA)"
        made.append(Table(caption, ("setting", "share"), shares))
    else:
        made.append(
            Table(
                "Importances",
                ("setting", "share"),
                (("not estimated", f"fewer than {MIN_TRIALS} different trials"),),
            )
        )
    faults = tuple((str(row.number), row.state, row.fault) for row in rows if row.fault)
    if faults:
        made.append(Table("Trials without a result", ("trial", "state", "fault"), faults))
    return made


def page(title: str, made: Sequence[Table], remarks: Sequence[str], settings: list[Table]) -> str:
    """Returns the results as one HTML page that loads nothing."""
    return template("tune.html.j2").render(
        version=cmdcm.__version__, title=title, tables=made, notes=remarks, settings=settings
    )


def _compared(baseline: Row, best: Row, folds: Sequence[Fold]) -> Table:
    rows = [
        (fold.name, number(a, LOSS), number(b, LOSS), number(b - a, LOSS, signed=True))
        for fold, a, b in zip(folds, baseline.losses, best.losses, strict=True)
    ]
    mean = (
        "mean",
        number(baseline.loss, LOSS),
        number(best.loss, LOSS),
        number(best.difference, LOSS, signed=True),
    )
    columns = ("validated on", "given", f"best: trial {best.number}", "difference")
    return Table("Log loss by fold", columns, (*rows, mean))


def _settings(baseline: Row, best: Row) -> Table:
    rows = tuple(
        (name, text(value), text(best.settings[name])) for name, value in baseline.settings.items()
    )
    return Table("Settings", ("setting", "given", f"best: trial {best.number}"), rows)


def _trials(rows: Sequence[Row]) -> Table:
    def place(row: Row) -> tuple[int, float, int]:
        last = row.loss if row.loss is not None else row.difference
        return _ORDER.index(row.state), last if last is not None else 0.0, row.number

    names = list(rows[0].settings)
    lines = []
    for row in sorted(rows, key=place):
        state = row.state if row.same_as is None else f"{row.state}, as {row.same_as}"
        lines.append(
            (
                str(row.number),
                state,
                number(row.loss, LOSS),
                number(row.difference, LOSS, signed=True),
                text(list(row.epochs)) if row.epochs else "–",
                number(row.seconds, 0),
                *(text(row.settings.get(name)) for name in names),
            )
        )
    columns = ("trial", "state", "log loss", "difference", "kept epochs", "seconds", *names)
    return Table("Trials, best first", columns, tuple(lines))
