"""The page of a simulated online experiment: one self-contained HTML file."""

from collections.abc import Mapping
from typing import Any

import cmdcm
from cmdcm.jobs.abtest import KINDS
from cmdcm.jobs.auction import METRICS
from cmdcm.jobs.report import template
from cmdcm.jobs.tables import tables
from cmdcm.model.multiplicity import CORRECTIONS

_KIND_TEXTS = {
    "expected": "expected: every shown item counts with its true probabilities",
    "happened": "as it happened: every shown item counts with what was drawn for it",
}


def render(result: Mapping[str, Any]) -> str:
    """Returns the page of what `abtest.compare` returned; it loads nothing."""
    names = result["policy_names"]
    return template("abtest.html.j2").render(
        version=cmdcm.__version__,
        title=f"Simulated online experiment: {result['promotion']}",
        result=result,
        names=names,
        others=[name for name in names if name != result["baseline"]],
        metrics=METRICS,
        kinds={kind: _KIND_TEXTS[kind] for kind in reversed(KINDS)},
        correction=CORRECTIONS[result["correction"]],
        level=f"{100 * result['confidence']:g}",
        settings=tables(dict(sorted(result["settings"].items())), "settings"),
    )
