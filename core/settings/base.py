"""The base of all tables of the configuration."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

IsoTime = Annotated[
    str, BeforeValidator(lambda value: value.isoformat() if isinstance(value, date) else value)
]
"""An ISO date or date-time, written as a string or as one of TOML's own dates."""


class Section(BaseModel):
    """Base of all tables: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    before: ClassVar[Mapping[str, Any]] = {}
    """What settings stand for that are missing where an older cmdcm wrote the table."""

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the settings of a table on the disk, which may be older than some of them."""
        return {**cls.before, **values}
