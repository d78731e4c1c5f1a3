"""Settings of training on a stream."""

from typing import Literal

from pydantic import Field

from cmdcm.core.settings.base import Section


class StreamConfig(Section):
    """How a stream is gone through (docs/streaming.md).

    Attributes:
        step_hours: Length of a period: train on one, test on the next.
        learning_rate_share: Learning rates on the stream, in those of `training`: a stream goes on
            with a trained network, on few clicks.
        checkpoint_periods: Periods between two checkpoints.
        immature: What to do with history whose labels are not final when the stream starts:
            `refuse` it, or `keep` it, as published benchmarks do.
    """

    step_hours: float = Field(24.0, gt=0)
    learning_rate_share: float = Field(0.3, gt=0)
    checkpoint_periods: int = Field(24, ge=1)
    immature: Literal["refuse", "keep"] = "refuse"
