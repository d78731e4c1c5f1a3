"""The sequence encoders by name: the one place that `model.sequence_encoder` is looked up."""

from collections.abc import Callable

from cmdcm.core.config import ModelConfig
from cmdcm.model.encoders.din import DIN
from cmdcm.model.encoders.lrea import LREA
from cmdcm.model.encoders.mean_pooling import MeanPooling
from cmdcm.model.encoders.srn import SRN
from cmdcm.model.sequences import SequenceEncoder, TargetAttention

ENCODERS: dict[str, Callable[[ModelConfig, int, str], SequenceEncoder]] = {
    "target_attention": lambda c, length, name: TargetAttention(c.attention_units, name=name),
    "din": lambda c, length, name: DIN(c.attention_units, name=name),
    "mean_pooling": lambda c, length, name: MeanPooling(name=name),
    "lrea": lambda c, length, name: LREA(c.attention_units, length, c.sequence_rank, name=name),
    "srn": lambda c, length, name: SRN(c.attention_units, name=name),
}


def make_encoder(config: ModelConfig, length: int, name: str) -> SequenceEncoder:
    """Builds the configured encoder of a sequence of at most `length` items."""
    return ENCODERS[config.sequence_encoder](config, length, name)
