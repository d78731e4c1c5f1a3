"""Folds: which days train and which validate, in the order of time, and never the test split."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.config import SplitConfig
from cmdcm.core.errors import DataError
from cmdcm.features.dataset import ExampleSet
from cmdcm.features.split import split_days
from cmdcm.jobs.tune.folds import Fold, folds_of, open_fold

NAMES = ["p1", "p2", "p3", "p4", "p5"]
"""Promotions of two days each; listed in an order that is not that of time."""


def examples(names: list[str], config: SplitConfig) -> ExampleSet:
    days = {f"2024-0{name[1]}-0{day}": name for name in names for day in (1, 2)}
    manifest: dict[str, Any] = {
        "days": {day: {"promotion": name} for day, name in days.items()},
        "promotions": {
            name: {"first_day": f"2024-0{name[1]}-01", "last_day": f"2024-0{name[1]}-02"}
            for name in reversed(names)
        },
    }
    split = split_days(manifest, config)
    return ExampleSet(Path("examples"), manifest, None, None, split)  # type: ignore[arg-type]


def promotions(days: tuple[str, ...]) -> list[str]:
    assert list(days) == sorted(days)
    return sorted({f"p{day[6]}" for day in days})


def folds(latest: int = 0, **settings: Any):
    config = SplitConfig(**settings)
    return [
        (promotions(fold.train), promotions(fold.validation))
        for fold in folds_of(examples(NAMES, config), config, latest)
    ]


def test_each_promotion_before_the_test_validates_what_the_earlier_ones_train():
    assert folds() == [
        (["p1"], ["p2"]),
        (["p1", "p2"], ["p3"]),
        (["p1", "p2", "p3"], ["p4"]),
    ]


@pytest.mark.parametrize("windows", [0, 1, 2])
def test_the_last_fold_is_the_split_that_training_uses(windows):
    config = SplitConfig(windows=windows)
    data = examples(NAMES, config)
    fold = folds_of(data, config)[-1]
    assert fold == Fold("p4", data.split.train, data.split.validation)


def test_a_window_rolls_and_the_latest_folds_are_kept():
    assert folds(windows=1) == [(["p1"], ["p2"]), (["p2"], ["p3"]), (["p3"], ["p4"])]
    assert folds(windows=2) == [(["p1"], ["p2"]), (["p1", "p2"], ["p3"]), (["p2", "p3"], ["p4"])]
    assert folds(latest=1, windows=2) == [(["p2", "p3"], ["p4"])]
    assert folds(latest=2) == [(["p1", "p2"], ["p3"]), (["p1", "p2", "p3"], ["p4"])]
    assert folds(latest=9, windows=9) == folds()


def test_configured_test_promotions_and_all_behind_them_are_left_out():
    assert folds(test=("p3",)) == [(["p1"], ["p2"])]
    expected = [(["p1"], ["p2"]), (["p1", "p2"], ["p3"])]
    assert folds(test=("p4",), validation=("p2",)) == expected


@given(
    count=st.integers(3, 5),
    test=st.integers(2, 4),
    latest=st.integers(0, 4),
    windows=st.integers(0, 4),
)
def test_folds_go_forward_in_time_and_never_touch_the_test(count, test, latest, windows):
    names = NAMES[:count]
    config = SplitConfig(test=(names[min(test, count - 1)],), windows=windows)
    data = examples(names, config)
    made = folds_of(data, config, latest)
    assert 1 <= len(made) <= (latest or count)
    for fold in made:
        assert max(fold.train) < min(fold.validation)
        assert max(fold.validation) < min(data.split.test)
        assert not {*fold.train, *fold.validation} & {*data.split.test}
        assert len(promotions(fold.train)) <= (windows or count)
    assert [f.validation for f in made] == sorted(f.validation for f in made)


def test_a_split_by_time_is_one_fold():
    config = SplitConfig(by="time", test_share=0.4, validation_share=0.4)
    days = {f"2024-11-0{day}": {"promotion": "p"} for day in range(1, 6)}
    spans = {"p": {"first_day": "2024-11-01", "last_day": "2024-11-05"}}
    manifest = {"days": days, "promotions": spans}
    data = ExampleSet(Path(), manifest, None, None, split_days(manifest, config))  # type: ignore[arg-type]
    (fold,) = folds_of(data, config, latest=3)
    assert fold == Fold("2024-11-02..2024-11-03", ("2024-11-01",), ("2024-11-02", "2024-11-03"))


def test_one_promotion_before_the_test_is_too_few():
    with pytest.raises(
        DataError, match=r"two promotions before the test split; there are \['p1'\]"
    ):
        folds(test=("p5", "p2"))


def test_an_opened_fold_has_no_test_part(small_world):
    config = small_world.config.split
    data = ExampleSet.open(small_world.examples, config)
    fold = folds_of(data, config)[0]
    opened = open_fold(small_world.examples, config, fold)
    assert (opened.split.train, opened.split.validation) == (fold.train, fold.validation)
    assert {file.parent.name for file in opened.files("train")} == set(fold.train)
    assert opened.total("test") == 0
    with pytest.raises(DataError, match="no shards"):
        opened.files("test")
