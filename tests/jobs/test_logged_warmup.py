"""Logged requests that an export takes for its warm-up."""

import numpy as np
import pytest

from cmdcm.core.errors import DataError
from cmdcm.export.warmup import write_requests
from cmdcm.jobs.logged_warmup import read_warmup
from cmdcm.jobs.main import parse
from cmdcm.tests.serving import models

GOOD = {**models.user_arrays(), **models.candidate_arrays(3)}
UNFIT = {
    "another signature": ("other", GOOD),
    "a feature missing": ("score_candidates", {n: v for n, v in GOOD.items() if n != "price"}),
    "another type": ("score_candidates", GOOD | {"price": GOOD["price"].astype(np.float64)}),
    "another length": ("score_candidates", GOOD | {"user_counts": np.ones((1, 2), np.float32)}),
    "uneven candidates": (
        "score_candidates",
        GOOD | models.candidate_arrays(2) | {"item_id": GOOD["item_id"]},
    ),
    "no example": ("serving_default", {"examples": np.array([b"\xff"], object)}),
    "another input": ("serving_default", GOOD),
    "no examples": ("serving_default", {"examples": np.array([], object)}),
    "a scalar": ("serving_default", {"examples": np.array(b"", object)}),
    "no candidates": ("score_candidates", models.user_arrays() | models.candidate_arrays(0)),
}


@pytest.mark.parametrize("case", UNFIT)
def test_requests_that_do_not_fit_are_passed_over(tmp_path, case):
    write_requests(tmp_path / "log", "tiny", [UNFIT[case], ("score_candidates", GOOD)])
    ((signature, inputs),) = read_warmup([tmp_path / "log"], models.SPEC)
    assert signature == "score_candidates"
    assert inputs.keys() == GOOD.keys()
    for name, value in GOOD.items():
        np.testing.assert_array_equal(inputs[name], value)


def test_examples_are_taken_without_a_signature(tmp_path):
    write_requests(tmp_path / "log", "tiny", [("", {"examples": np.array([b""], object)})])
    ((signature, _),) = read_warmup([tmp_path / "log"], models.SPEC)
    assert signature == "serving_default"


def test_a_log_of_another_model_is_an_error(tmp_path):
    write_requests(tmp_path / "log", "tiny", [UNFIT["another signature"]])
    with pytest.raises(DataError, match=r"no request with the model's features in .*log"):
        read_warmup([tmp_path / "log"], models.SPEC)


def test_the_command_takes_several_files():
    command = [
        "cmdcm",
        "export",
        "--model",
        "m",
        "--examples",
        "e",
        "--output",
        "o",
        "--warmup",
        "a",
        "b",
    ]
    assert [path.name for path in parse(command).warmup] == ["a", "b"]
