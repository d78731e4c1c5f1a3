"""The models by name: the one place that `model.name` of the configuration is looked up."""

from cmdcm.core.config import ModelConfig
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.base import RankingModel
from cmdcm.model.cmdcm import CMDCM
from cmdcm.model.esmm import ESMM
from cmdcm.model.single_task import SingleTask, Vanilla

MODELS: dict[str, type[RankingModel]] = {
    "cmdcm": CMDCM,
    "vanilla": Vanilla,
    "single_task": SingleTask,
    "esmm": ESMM,
}
"""Every model has a line in the map of docs/models.md, made by `make model-map` of its `about`."""


def make_model(spec: FeatureSpec, config: ModelConfig) -> RankingModel:
    """Builds the model that the configuration names; its weights come with the first batch."""
    return MODELS[config.name](spec, config)
