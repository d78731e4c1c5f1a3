"""The search with trials that cost nothing: what it proposes, prunes, survives and refuses."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from cmdcm.core.config import Config, load_config
from cmdcm.core.errors import PreemptedError, TrainingError
from cmdcm.jobs.tune import search
from cmdcm.jobs.tune.results import frame_of, rows_of
from cmdcm.jobs.tune.search import Limits, Search, Task
from cmdcm.jobs.tune.space import Choices, Range, Space
from cmdcm.tests.jobs.tune import fakes

SPACE = Space(
    (
        Range("training.learning_rate", 1e-4, 1e-2, None, True),
        Range("model.cross_layers", 0, 3),
        Range("model.l2_embeddings", 1e-6, 1e-2, None, True),
    )
)
WRITES = (
    "create_new_trial",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
)


pytestmark = pytest.mark.filterwarnings("error")


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setattr(search, "Worker", fakes.ThreadWorker)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass
class Bench:
    """A study in memory, and where its trials leave their traces."""

    root: Path
    space: Space = SPACE
    base: Config = field(default_factory=Config)
    storage: Any = field(default_factory=optuna.storages.InMemoryStorage)
    cleaned: list[str] = field(default_factory=list)

    def search(
        self, limits: Limits, function: Callable[[Any, Any], None] = fakes.formula
    ) -> "Bench":
        study = optuna.create_study(storage=self.storage, study_name="tune", load_if_exists=True)
        task = Task(
            function,
            lambda config, folder: fakes.Job(config, folder, self.root / "runs"),
            lambda folder: self.cleaned.append(folder.name),
            fakes.FOLDS,
        )
        Search(study, self.space, self.base, task, self.root, limits).run()
        return self

    @property
    def study(self):
        return optuna.load_study(storage=self.storage, study_name="tune")

    @property
    def frame(self):
        return frame_of(rows_of(self.study, self.space, self.base), self.space)

    @property
    def runs(self) -> list[str]:
        return (self.root / "runs").read_text().splitlines()


@pytest.fixture
def bench(tmp_path) -> Bench:
    (tmp_path / "runs").touch()
    return Bench(tmp_path)


def test_the_first_trial_is_the_given_configuration_and_values_are_means(bench):
    frame = bench.search(Limits(12, prune_after=99)).frame
    assert frame["state"].to_list() == ["complete"] * 12
    first = frame.row(0, named=True)
    default = Config()
    assert first["training.learning_rate"] == default.training.learning_rate
    assert first["model.cross_layers"] == default.model.cross_layers
    assert first["difference"] == 0
    base = np.array(fakes.losses(default))
    for row in frame.iter_rows(named=True):
        overrides = [f"{name}={row[name]}" for name in frame.columns if "." in name]
        expected = np.array(fakes.losses(load_config(overrides=overrides)))
        assert row["losses"] == pytest.approx(expected)
        assert row["loss"] == pytest.approx(expected.mean())
        assert row["difference"] == pytest.approx((expected - base).mean())
    assert sorted(set(bench.cleaned)) == [f"{number:04d}" for number in range(12)]


def test_a_baseline_outside_the_space_is_run_as_it_is(tmp_path):
    (tmp_path / "runs").touch()
    base = load_config(overrides=["training.learning_rate=0.5"])
    bench = Bench(tmp_path, base=base).search(Limits(12, prune_after=99))
    assert set(bench.study.trials[0].params) == {"model.cross_layers", "model.l2_embeddings"}
    assert bench.frame["training.learning_rate"][0] == 0.5
    assert bench.frame["losses"][0].to_list() == pytest.approx(fakes.losses(base))
    assert bench.frame["training.learning_rate"][1:].max() <= 1e-2


def test_the_same_seed_proposes_the_same_trials_and_another_one_others(tmp_path):
    frames = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runs").touch()
        bench = Bench(tmp_path / name, base=load_config(overrides=[f"seed={seed}"]))
        frames.append(bench.search(Limits(14, prune_after=3)).frame)
    assert frames[0].equals(frames[1])
    rates = [frame["training.learning_rate"].to_list() for frame in frames]
    assert rates[0][0] == rates[2][0]
    assert not set(rates[0][1:]) & set(rates[2][1:])


def test_sampling_learns_where_the_loss_is_low(bench):
    losses = bench.search(Limits(40, prune_after=99)).frame["loss"].to_numpy()
    assert losses[20:].mean() < losses[1:11].mean() - 0.001


def test_pruning_is_by_the_median_of_the_means_over_the_same_folds(bench):
    frame = bench.search(Limits(40, prune_after=4)).frame
    complete: list[np.ndarray] = []  # their running means
    ends = []
    spared = 0
    for row in frame.iter_rows(named=True):
        overrides = [f"{name}={row[name]}" for name in frame.columns if "." in name]
        losses = np.array(fakes.losses(load_config(overrides=overrides)))
        means = np.cumsum(losses) / np.arange(1, fakes.FOLDS + 1)
        above = [
            len(complete) >= 4 and bool(means[k] > np.median([other[k] for other in complete]))
            for k in range(fakes.FOLDS)
        ]
        end = above.index(True) + 1 if any(above[:-1]) else fakes.FOLDS
        assert len(row["losses"]) == end
        assert row["state"] == ("pruned" if any(above[:-1]) else "complete")
        if row["state"] == "complete":
            complete.append(means)
            spared += above[-1]
        else:
            assert row["loss"] is None
        ends.append(end)
    # All cases were there: pruned after the first, the second, and not after the last fold.
    assert {1, 2, 3} == set(ends)
    assert spared
    # A pruned trial's other folds were never run.
    assert len(bench.runs) == sum(ends)


def killed_at(bench: Bench, write: int, limits: Limits, function, monkeypatch) -> bool:
    """Runs a search that is killed at a write to the study; returns whether it got so far."""
    count = 0

    def counted(method):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count > write:
                raise KilledError
            return method(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for name in WRITES:
            patched.setattr(bench.storage, name, counted(getattr(bench.storage, name)))
        try:
            bench.search(limits, function)
        except KilledError:
            return True
    return False


@pytest.mark.parametrize(
    ("space", "trials", "function", "states", "stride"),
    [
        (SPACE, 13, fakes.formula, {"complete", "pruned"}, 2),
        (Space((Range("model.cross_layers", 2, 3),)), 6, fakes.formula, {"complete"}, 1),
        (SPACE, 5, fakes.sometimes, {"complete", "pruned", "failed"}, 1),
    ],
    ids=["pruning", "equal configurations", "failures"],
)
def test_a_search_that_is_killed_anywhere_ends_as_an_undisturbed_one(
    tmp_path, monkeypatch, space, trials, function, states, stride
):
    limits = Limits(trials, prune_after=2)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "runs").touch()
    whole = Bench(tmp_path / "whole", space).search(limits, function)
    assert set(whole.frame["state"]) == states
    for write in itertools.count(0, stride):
        place = tmp_path / str(write)
        place.mkdir()
        (place / "runs").touch()
        bench = Bench(place, space)
        if not killed_at(bench, write, limits, function, monkeypatch):
            break
        bench.search(limits, function)
        assert bench.frame.equals(whole.frame), write
        # Nothing that was done was done again.
        assert sorted(bench.runs) == sorted(set(bench.runs)) == sorted(whole.runs), write
    assert write > 5 * trials


def test_more_trials_go_on_from_those_that_are_there(bench, tmp_path):
    bench.search(Limits(5))
    before = bench.frame
    bench.search(Limits(5))
    assert bench.frame.equals(before)
    bench.search(Limits(3))
    assert bench.frame.equals(before)
    bench.search(Limits(12))
    assert bench.frame[:5].equals(before)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "runs").touch()
    assert Bench(tmp_path / "whole").search(Limits(12)).frame.equals(bench.frame)


def test_equal_configurations_run_once(tmp_path):
    (tmp_path / "runs").touch()
    bench = Bench(tmp_path, Space((Range("model.cross_layers", 2, 3),)))
    frame = bench.search(Limits(9, prune_after=99)).frame
    assert len(bench.runs) == 2 * fakes.FOLDS
    first: dict[int, dict] = {}
    for row in frame.iter_rows(named=True):
        twin = first.setdefault(row["model.cross_layers"], row)
        assert row["same_as"] == (None if twin is row else twin["number"])
        assert (row["loss"], row["losses"], row["state"]) == (
            twin["loss"],
            twin["losses"],
            twin["state"],
        )
        assert row["seconds"] == (6 if twin is row else 0)


def test_settings_that_exclude_each_other_are_not_run(tmp_path):
    (tmp_path / "runs").touch()
    space = Space(
        (
            Range("model.cross_fit_folds", 1, 4),
            Choices("model.estimator", ("snipw", "dr")),
        )
    )
    bench = Bench(tmp_path, space)
    frame = bench.search(Limits(15, prune_after=99, failures=1)).frame
    invalid = frame.filter(frame["state"] == "invalid")
    assert len(invalid) and len(invalid) < 15
    assert set(invalid["model.estimator"]) == {'"snipw"'}
    assert invalid["model.cross_fit_folds"].min() > 1
    assert all("needs estimator = 'dr'" in fault for fault in invalid["fault"])
    assert not {f"{n:04d}" for n in invalid["number"]} & {run.split()[0] for run in bench.runs}


def test_failures_are_recorded_and_too_many_in_a_row_stop_the_search(bench):
    with pytest.raises(TrainingError, match=r"2 trials in a row failed, .*: no rows for 0002"):
        bench.search(Limits(9, failures=2), fakes.faulty)
    assert bench.frame["state"].to_list() == ["complete", "failed", "failed"]
    assert bench.frame["fault"].to_list() == ["", "no rows for 0001", "no rows for 0002"]
    assert bench.frame["losses"].to_list() == [[1, 1, 1], [1], [1]]
    assert bench.cleaned == ["0000", "0001", "0002"]
    # The same command goes on behind them.
    bench.search(Limits(9, failures=2))
    assert bench.frame["state"].to_list()[:3] == ["complete", "failed", "failed"]
    assert {run.split()[0] for run in bench.runs} == {f"{number:04d}" for number in range(3, 9)}


def test_failures_that_are_not_in_a_row_do_not_stop_the_search(bench):
    frame = bench.search(Limits(8, prune_after=99, failures=2), fakes.sometimes).frame
    assert frame["state"].to_list() == ["complete", "failed"] * 4


def test_a_fault_that_does_not_recur_is_forgotten(bench, monkeypatch):
    tell = Search._tell

    def killed(search, trial, state, value=None):
        if state == TrialState.FAIL:
            raise KilledError
        tell(search, trial, state, value)

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(Search, "_tell", killed)
        bench.search(Limits(3), fakes.faulty)
    assert bench.study.trials[1].user_attrs["fault"] == "no rows for 0001"
    frame = bench.search(Limits(3)).frame
    assert frame["state"].to_list() == ["complete"] * 3
    assert frame["fault"].to_list() == [""] * 3


def test_a_baseline_that_fails_stops_the_search_and_is_tried_again(bench):
    with pytest.raises(TrainingError, match="given configuration cannot be trained: no rows at"):
        bench.search(Limits(3), fakes.never)
    assert bench.frame["state"].to_list() == ["unfinished"]
    frame = bench.search(Limits(3)).frame
    assert frame["state"].to_list() == ["complete"] * 3
    assert frame["difference"][0] == 0


@pytest.mark.parametrize("function", [fakes.preempted, fakes.terminating])
def test_sigterm_leaves_a_search_that_goes_on(bench, function):
    with pytest.raises(PreemptedError, match="the same command goes on"):
        bench.search(Limits(4), function)
    assert bench.study.trials[-1].state == TrialState.RUNNING
    assert bench.search(Limits(4)).frame["state"].to_list() == ["complete"] * 4


def test_several_workers_run_together(bench):
    together: list[set[str]] = []
    running: set[str] = set()

    def noted(job, report):
        running.add(job.folder.name)
        together.append(set(running))
        fakes.formula(job, report)
        running.discard(job.folder.name)

    frame = bench.search(Limits(9, workers=3, prune_after=99), noted).frame
    assert frame["state"].to_list() == ["complete"] * 9
    assert 1 < max(map(len, together)) <= 3
    assert len(bench.runs) == len(set(bench.runs)) == 9 * fakes.FOLDS
