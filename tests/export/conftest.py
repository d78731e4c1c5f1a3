"""One export of a model of the small world for all tests."""

import pytest

from cmdcm.export.publish import Version, export_model
from cmdcm.features.dataset import ExampleSet
from cmdcm.model.base import RankingModel
from cmdcm.tests.export.models import model_of


@pytest.fixture(scope="session")
def data(small_world) -> ExampleSet:
    return ExampleSet.open(small_world.examples, small_world.config.split)


@pytest.fixture(scope="session")
def exported(data, small_world, tmp_path_factory) -> tuple[RankingModel, Version]:
    base = tmp_path_factory.mktemp("serving") / "cmdcm"
    model, config = model_of(data, small_world.config, "cmdcm")
    return model, export_model(model, base, config, data, {"models": {}, "auc": 0.7})
