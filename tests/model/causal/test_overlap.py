"""Overlap diagnostics by hand."""

import numpy as np
import pytest

from cmdcm.model.causal.overlap import effective_sample_size, overlap
from cmdcm.model.causal.rows import CausalRows
from cmdcm.tests.model.causal.populations import population


def rows(carted, propensity):
    zeros = np.zeros(len(carted))
    return CausalRows(
        np.arange(len(carted)), np.array(carted), zeros, np.array(propensity), zeros, zeros
    )


def test_by_hand():
    result = overlap(rows([True, True, True, False, False], [0.015, 0.5, 1.0, 0.5, 0.04]), 0.1)
    carted, uncarted = result["carted"], result["uncarted"]
    # Weights 10, 2, 1 and 2, 1 / .96.
    assert carted["rows"] == 3
    assert carted["effective"] == pytest.approx(13**2 / 105)
    assert carted["largest"] == 10
    assert carted["mean_weight"] == pytest.approx(13 / 5)
    assert carted["clipped"] == pytest.approx(1 / 3)
    assert carted["clipped_all"] == pytest.approx(2 / 5)
    assert uncarted["clipped"] == 0
    assert uncarted["clipped_all"] == pytest.approx(1 / 5)
    edges = result["edges"]
    assert carted["shares"][edges.index(0.01)] == pytest.approx(1 / 3)
    assert carted["shares"][edges.index(0.5)] == pytest.approx(1 / 3)
    assert carted["shares"][edges.index(0.9)] == pytest.approx(1 / 3)
    assert sum(uncarted["shares"]) == pytest.approx(1)
    assert len(edges) == len(carted["shares"]) + 1


def test_calibrated_propensities_have_weights_that_sum_to_the_rows():
    result = overlap(population(), 1e-6)
    assert result["carted"]["mean_weight"] == pytest.approx(1)
    assert result["uncarted"]["mean_weight"] == pytest.approx(1)
    assert result["carted"]["effective"] < result["carted"]["rows"]


def test_an_arm_without_rows():
    result = overlap(rows([True], [0.5]), 0.1)
    assert result["uncarted"]["rows"] == result["uncarted"]["effective"] == 0
    assert result["uncarted"]["largest"] is None
    assert effective_sample_size(np.zeros(0)) == 0
