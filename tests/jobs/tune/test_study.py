"""The study's file: one search, one process at a time, and nobody else's file."""

import pytest

from cmdcm.core.errors import OutputError
from cmdcm.jobs.tune.study import open_study


def test_a_study_is_found_again_by_what_determines_it(tmp_path):
    output = tmp_path / "a ?new #folder" / "tuning"
    with open_study(output, {"seed": 1, "folds": (("a", "b"),)}) as study:
        study.add_trial(_trial())
    with open_study(output, {"seed": 1, "folds": [["a", "b"]]}) as study:
        assert [trial.value for trial in study.trials] == [2.5]
    assert (output / "study.db").exists()


def test_another_search_is_refused_and_says_what_differs(tmp_path):
    with open_study(tmp_path, {"seed": 1, "space": {}, "head": "cart"}):
        pass
    with (
        pytest.raises(OutputError, match="a search with another seed, head; choose another"),
        open_study(tmp_path, {"seed": 2, "space": {}, "head": "direct"}),
    ):
        pass


def test_two_searches_at_a_time_are_refused(tmp_path):
    with (
        open_study(tmp_path, {}),
        pytest.raises(OutputError, match="another search is running"),
        open_study(tmp_path, {}),
    ):
        pass
    with open_study(tmp_path, {}):
        pass


def test_a_file_that_is_no_study_is_named(tmp_path):
    (tmp_path / "study.db").write_text("precious" * 1000)
    with pytest.raises(OutputError, match=r"study\.db is no study"), open_study(tmp_path, {}):
        pass
    assert (tmp_path / "study.db").read_text() == "precious" * 1000


def test_an_output_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"cannot write .*file"),
        open_study(tmp_path / "file" / "x", {}),
    ):
        pass


def _trial():
    import optuna

    return optuna.trial.create_trial(value=2.5)
