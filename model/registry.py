"""The models by name: the one place that `model.name` of the configuration is looked up."""

from cmdcm.core.config import ModelConfig
from cmdcm.features.spec import FeatureSpec
from cmdcm.model.base import RankingModel
from cmdcm.model.cmdcm import CMDCM
from cmdcm.model.dcmt import DCMT
from cmdcm.model.delayed.as_observed import AsObserved
from cmdcm.model.delayed.defer import DEFER
from cmdcm.model.delayed.defuse import DEFUSE
from cmdcm.model.delayed.dfm import DFM
from cmdcm.model.delayed.ecad import ECAD
from cmdcm.model.delayed.es_dfm import ESDFM
from cmdcm.model.delayed.fnc import FNC
from cmdcm.model.delayed.fnw import FNW
from cmdcm.model.delayed.fsiw import FSIW
from cmdcm.model.delayed.ulc import ULC
from cmdcm.model.escm2 import ESCM2DR, ESCM2IPS
from cmdcm.model.esm2 import ESM2
from cmdcm.model.esmm import ESMM
from cmdcm.model.hdr import HDR
from cmdcm.model.hm3 import HM3
from cmdcm.model.mmoe import MMoE
from cmdcm.model.pepnet import PEPNet
from cmdcm.model.ple import PLE
from cmdcm.model.shared_bottom import SharedBottom
from cmdcm.model.single_task import SingleTask, Vanilla

MODELS: dict[str, type[RankingModel]] = {
    "cmdcm": CMDCM,
    "vanilla": Vanilla,
    "single_task": SingleTask,
    "shared_bottom": SharedBottom,
    "mmoe": MMoE,
    "ple": PLE,
    "pepnet": PEPNet,
    "esmm": ESMM,
    "esm2": ESM2,
    "hm3": HM3,
    "escm2_ips": ESCM2IPS,
    "escm2_dr": ESCM2DR,
    "dcmt": DCMT,
    "hdr": HDR,
    "as_observed": AsObserved,
    "dfm": DFM,
    "fnw": FNW,
    "fnc": FNC,
    "fsiw": FSIW,
    "es_dfm": ESDFM,
    "defer": DEFER,
    "defuse": DEFUSE,
    "ulc": ULC,
    "ecad": ECAD,
}
"""Every model has a line in the map of docs/models.md, made by `make model-map` of its `about`."""


def make_model(spec: FeatureSpec, config: ModelConfig) -> RankingModel:
    """Builds the model that the configuration names; its weights come with the first batch."""
    return MODELS[config.name](spec, config)
