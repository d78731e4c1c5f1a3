"""The page docs/causal.md against the code: settings, keys, populations."""

import re
import tomllib

import pytest

from cmdcm.core.config import EvaluationConfig
from cmdcm.model.causal.summary import Provenance
from cmdcm.model.causal.targeting import POPULATIONS
from cmdcm.model.evaluation import evaluate
from cmdcm.tests.checkout import ROOT
from cmdcm.tests.model.predictions_data import causal_predictions

TEXT = (ROOT / "docs" / "causal.md").read_text(encoding="utf-8")


def section(title):
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def table(title):
    rows = re.findall(r"^\| (.+) \|$", section(title), re.MULTILINE)
    return [[cell.strip() for cell in row.split(" | ")] for row in rows[1:]]


def test_settings_have_the_defaults_that_are_documented():
    documented = {row[0].strip("`"): row[1] for row in table("Settings") if "," not in row[0]}
    assert len(documented) == 6
    for name, default in documented.items():
        value = tomllib.loads(f"value = {default}")["value"]
        value = tuple(value) if isinstance(value, list) else value
        assert EvaluationConfig.model_fields[name].default == value, name


def test_every_key_of_the_json_is_documented_and_none_else():
    frames = causal_predictions(rows=1_000)
    config = EvaluationConfig(bootstrap=10)
    seen = Provenance(frozenset(), 0.03)
    summary = evaluate(frames, config, 1, provenance=dict.fromkeys(frames, seen))["models"][
        "cmdcm"
    ]["causal"]
    documented = {
        key.split(".")[0]
        for row in table("The JSON")
        for key in re.findall(r"`([\w.{},]+)`", row[0])
    }
    assert documented == set(summary)
    (effect,) = (row[1] for row in table("The JSON") if row[0].startswith("`populations"))
    assert set(re.findall(r"`(\w+)`", effect)) - {"effect"} == set(
        summary["populations"]["all"]["effect"]
    )
    (arms,) = (row[1] for row in table("The JSON") if row[0] == "`overlap`")
    assert set(re.findall(r"`(\w+)`", arms)) - {"edges"} == set(summary["overlap"]["carted"])


def test_the_populations_are_those_of_the_table():
    assert tuple(re.findall(r"^\| `(\w+)` \|", section("The question"), re.MULTILINE)) == (
        POPULATIONS
    )


@pytest.mark.parametrize("lambdas", [(2.0, 1.0), (1.0, 1.0), (0.5, 2.0)])
def test_lambdas_rise_from_one(lambdas):
    with pytest.raises(ValueError, match="lambdas should be increasing and at least 1"):
        EvaluationConfig(lambdas=lambdas)
