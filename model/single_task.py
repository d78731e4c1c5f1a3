"""Baselines with one head: the conversion model that ad platforms run today."""

from collections.abc import Sequence

import tensorflow as tf

from cmdcm.model.about import About
from cmdcm.model.base import RankingModel
from cmdcm.model.heads import Head
from cmdcm.model.inputs import Tensors


class SingleTask(RankingModel):
    """One CVR head on the final labels: direct and delayed purchases alike."""

    about = About(
        family="baselines",
        source="common practice",
        equation="BCE(C)",
        assumes="labels are final",
        use="as the conversion model without any module",
    )
    label = "conversion"

    def make_heads(self) -> Sequence[Head]:
        """One head."""
        return [Head("conversion", self.label)]

    def predictions(self, logits: Tensors) -> dict[str, tf.Tensor]:
        """The conversion probability alone."""
        return {"p_conversion": tf.sigmoid(logits["conversion"])}


class Vanilla(SingleTask):
    """One CVR head on what is observed before the promotion: delayed buyers are negatives."""

    about = About(
        family="baselines",
        source="common practice",
        equation="BCE(D)",
        assumes="what is bought later is not bought",
        use="as the anchor: what platforms run in these weeks",
    )
    label = "direct"

    def label_of(self, output: str) -> str | None:
        """Early stopping sees what training sees: no delayed purchase."""
        return self.label if output == "p_conversion" else None
