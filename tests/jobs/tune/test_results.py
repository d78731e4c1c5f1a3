"""What a study says: best trial, table, importances, and the warnings beside them."""

import optuna
import polars as pl
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from cmdcm.core.config import Config
from cmdcm.jobs.bench.page import markdown
from cmdcm.jobs.tune.folds import Fold
from cmdcm.jobs.tune.page import notes, page, tables
from cmdcm.jobs.tune.results import best_of, frame_of, importances, rows_of
from cmdcm.jobs.tune.space import Choices, Range, Space
from cmdcm.tests.jobs.page import Page

RATE, UNITS = "training.learning_rate", "model.tower_units"
SPACE = Space((Range(RATE, 1e-4, 1e-2, None, True), Choices(UNITS, ((32,), (64, 8)))))
DISTRIBUTIONS = {
    RATE: FloatDistribution(1e-4, 1e-2, log=True),
    UNITS: CategoricalDistribution(("[32]", "[64, 8]")),
}
FOLDS = (Fold("p2", ("a",), ("b",)), Fold("p3", ("a", "b"), ("c",)))


def study_of(*trials):
    """A study of (state, rate, units, losses, more attributes); the baseline's losses are 4, 2."""
    study = optuna.create_study()
    for state, rate, units, losses, more in trials:
        scores = [
            {"fold": place, "loss": loss, "epoch": place + 1, "seconds": 3.0}
            for place, loss in enumerate(losses)
        ]
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=sum(losses) / 2 if state == TrialState.COMPLETE else None,
                params={RATE: rate, UNITS: units},
                distributions=DISTRIBUTIONS,
                user_attrs={"scores": scores, **more},
            )
        )
    return study


@pytest.fixture
def study():
    return study_of(
        (TrialState.COMPLETE, 1e-3, "[32]", (4, 2), {}),
        (TrialState.PRUNED, 9e-3, "[32]", (5,), {}),
        (TrialState.COMPLETE, 2e-3, "[64, 8]", (3, 2.5), {}),
        (TrialState.FAIL, 3e-3, "[32]", (3,), {"fault": "out of memory"}),
        (TrialState.PRUNED, 4e-3, "[32]", (), {"fault": "a needs b"}),
        (TrialState.COMPLETE, 2e-3, "[64, 8]", (3, 2.5), {"same_as": 2}),
        (TrialState.RUNNING, 5e-3, "[32]", (), {}),
    )


@pytest.fixture
def rows(study):
    return rows_of(study, SPACE, Config())


def test_rows_are_the_trials(rows):
    frame = frame_of(rows, SPACE)
    expected = pl.DataFrame(
        {
            "number": [0, 1, 2, 3, 4, 5, 6],
            "state": [
                "complete",
                "pruned",
                "complete",
                "failed",
                "invalid",
                "complete",
                "unfinished",
            ],
            "loss": [3, None, 2.75, None, None, 2.75, None],
            "difference": [0, 1, -0.25, -1, None, -0.25, None],
            "losses": [[4, 2], [5], [3, 2.5], [3], [], [3, 2.5], []],
            "epochs": [[1, 2], [1], [1, 2], [1], [], [1, 2], []],
            "seconds": [6, 3, 6, 3, 0, 0, 0],
            "same_as": [None, None, None, None, None, 2, None],
            "fault": ["", "", "", "out of memory", "a needs b", "", ""],
            RATE: [1e-3, 9e-3, 2e-3, 3e-3, 4e-3, 2e-3, 5e-3],
            UNITS: ["[32]", "[32]", "[64, 8]", "[32]", "[32]", "[64, 8]", "[32]"],
        },
        schema=frame.schema,
        strict=False,
    )
    assert frame.equals(expected)
    assert frame.schema["losses"] == pl.List(pl.Float64)


def test_the_best_is_the_first_of_the_complete_ones_with_the_least_loss(rows):
    best = best_of(rows)  # neither the pruned nor the failed one, whose first fold was better
    assert (best.number, best.loss) == (2, 2.75)
    assert best.config is not None
    assert best.config.model.tower_units == (64, 8)
    assert best.config.training.learning_rate == 2e-3
    assert best_of(rows[:2]).config == Config()


def test_notes_warn_of_the_best_of_many(rows):
    text = " ".join(notes(rows, FOLDS, "conversion", 7))
    assert "7 trials: 3 complete, 1 pruned, 1 invalid, 1 failed, 1 unfinished. Seed 7." in text
    assert "the mean of 2 time-ordered folds" in text
    assert "Trial 2 differs by -0.25000 from the given configuration" in text
    assert "better in 1 of 2 folds" in text
    assert "optimistic: trial 2 is the best of 3 complete trials" in text
    alone = " ".join(notes(rows[:2], FOLDS, "conversion", 7))
    assert "No trial is better than the given configuration" in alone
    assert "optimistic" not in alone


def test_tables_compare_the_best_with_the_given_configuration(rows):
    made = {table.caption: table for table in tables(rows, FOLDS, {RATE: 0.75, UNITS: 0.25})}
    assert made["Log loss by fold"].rows == (
        ("p2", "4.00000", "3.00000", "-1.00000"),
        ("p3", "2.00000", "2.50000", "+0.50000"),
        ("mean", "3.00000", "2.75000", "-0.25000"),
    )
    assert made["Settings"].rows == ((RATE, "0.001", "0.002"), (UNITS, "32", "64, 8"))
    trials = made["Trials, best first"].rows
    assert [row[:4] for row in trials] == [
        ("2", "complete", "2.75000", "-0.25000"),
        ("5", "complete, as 2", "2.75000", "-0.25000"),
        ("0", "complete", "3.00000", "+0.00000"),
        ("1", "pruned", "–", "+1.00000"),
        ("4", "invalid", "–", "–"),
        ("3", "failed", "–", "-1.00000"),
        ("6", "unfinished", "–", "–"),
    ]
    assert made["Trials without a result"].rows == (
        ("3", "failed", "out of memory"),
        ("4", "invalid", "a needs b"),
    )
    assert ("training.learning_rate", "0.75") in next(
        table.rows for caption, table in made.items() if "PED-ANOVA" in caption
    )


def test_the_page_holds_the_tables_and_escapes_what_it_shows(study):
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.FAIL,
            params={RATE: 1e-3, UNITS: "[32]"},
            distributions=DISTRIBUTIONS,
            user_attrs={"fault": "<b>bad"},
        )
    )
    rows = rows_of(study, SPACE, Config())
    made = tables(rows, FOLDS, {})
    html = Page(page("Search", made, notes(rows, FOLDS, "conversion", 1), []))
    assert html.row("Trials without a result", "7")[2] == "<b>bad"
    assert not [value for _, name, value in html.attributes if name in ("src", "href")]
    assert "fewer than 10 different trials" in markdown("Search", made, [])


def test_importances_find_the_setting_that_matters():
    grid = [(1e-4 * 10 ** (k % 8 / 4), k) for k in range(32)]
    trials: list[tuple] = [
        (
            TrialState.COMPLETE if k % 3 else TrialState.PRUNED,
            rate,
            ["[32]", "[64, 8]"][k // 8 % 2],
            (4 + 100 * rate, 2 + 100 * rate)[: 2 if k % 3 else 1],
            {},
        )
        for rate, k in grid
    ]
    found = importances(study_of((TrialState.COMPLETE, 1e-3, "[32]", (4, 2), {}), *trials), SPACE)
    assert list(found) == [RATE, UNITS]
    assert found[RATE] > 0.8
    assert sum(found.values()) == pytest.approx(1)


def test_few_trials_have_no_importances(study):
    assert importances(study, SPACE) == {}
    copies = [
        (TrialState.COMPLETE, 1e-3, "[32]", (4, 2), {"same_as": 0} if k else {}) for k in range(20)
    ]
    assert importances(study_of(*copies), SPACE) == {}
