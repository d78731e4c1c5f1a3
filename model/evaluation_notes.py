"""What a reader must know before believing an evaluation's numbers, in plain sentences."""

from collections.abc import Mapping
from typing import Any

from cmdcm.model.predictions import ALL_HEADS

FEW_POSITIVES = 100
TOO_FEW_POSITIVES = 10


def explanation(rows: int, positives: int) -> str | None:
    """Says which metrics rows of one class leave undefined; None where there are both."""
    if positives and positives < rows:
        return None
    kind = "negative" if positives == 0 else "positive"
    lost = "AUC, PR-AUC, GAUC, normalised entropy and PCOC" if positives == 0 else "AUC and GAUC"
    return f"all {rows} rows are {kind}, so {lost} are not defined"


def notes(evaluation: Mapping[str, Any]) -> list[str]:
    """Says in plain sentences what a reader must know before believing a number."""
    data, said = evaluation["data"], []
    for head, positives in data["positives"].items():
        single = explanation(data["rows"], positives)
        if single:
            said.append(f"Head {head}: {single}.")
        elif positives < FEW_POSITIVES:
            doubt = " and cannot be relied on" if positives < TOO_FEW_POSITIVES else ""
            said.append(f"Head {head}: {positives} positives: intervals are wide{doubt}.")
    if len(data["promotions"]) == 1:
        said.append(
            f"All test clicks belong to one promotion ({data['promotions'][0]}): the intervals "
            "show how results vary with the users drawn, not from promotion to promotion."
        )
    for head in ALL_HEADS:
        off = [
            f"{name} {'too high' if lower > 1 else 'too low'} ({estimate:.3f})"
            for name, model in evaluation["models"].items()
            if head in model["heads"]
            for estimate, lower, upper in [model["heads"][head]["metrics"]["pcoc"].values()]
            if lower is not None and not lower <= 1 <= upper
        ]
        if off:
            said.append(
                f"Head {head}: predictions are off on the whole, the PCOC interval excludes 1: "
                f"{', '.join(off)}."
            )
    improvement = evaluation["relative_improvement"]
    if improvement and not improvement["gap_excludes_zero"]:
        said.append(
            "The anchors vanilla and oracle do not differ clearly in conversion log loss: "
            "relative improvements have no interval and should not be read."
        )
    left_out = {d: len(values) for d, values in evaluation["slices_left_out"].items() if values}
    if left_out:
        parts = ", ".join(f"{dimension}: {count}" for dimension, count in left_out.items())
        said.append(
            f"{sum(left_out.values())} slices with fewer than "
            f"{evaluation['settings']['min_slice_rows']} rows are left out ({parts})."
        )
    return said
