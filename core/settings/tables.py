"""Settings of the embedding tables."""

from typing import Annotated

from pydantic import Field, model_validator

from cmdcm.core.settings.base import Section


class TablesConfig(Section):
    """How ids find their rows in the embedding tables (docs/training.md).

    Attributes:
        hashes: By table: hash functions of an id, whose rows are summed; 1 where it is not named.
        min_count: By table: ids that the training examples look up less often share one row, every
            other has one of its own; where it is not named, all ids are hashed.
    """

    hashes: dict[str, Annotated[int, Field(ge=1, le=8)]] = Field({})
    min_count: dict[str, Annotated[int, Field(ge=1)]] = Field({})

    @model_validator(mode="after")
    def _check(self) -> "TablesConfig":
        both = sorted(self.hashes.keys() & self.min_count.keys())
        if both:
            raise ValueError(f"hashes and min_count both name {both}; a known id needs no hash")
        return self
