"""What the checks of a data set find: one anomaly a fault, with a code that stays the same.

`docs/validation.md` says of each code what is measured, and an example.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from cmdcm.core.config import ValidationConfig
from cmdcm.core.errors import ConfigError

Severity = Literal["error", "warning"]
Source = Literal["data", "schema", "against", "requests"]

CODES: dict[str, Severity] = {
    "feature_missing": "error",
    "feature_new": "warning",
    "type": "error",
    "length": "error",
    "presence": "error",
    "out_of_range": "error",
    "negative_value": "error",
    "label_value": "error",
    "not_finite": "error",
    "null_rate": "warning",
    "null_rate_change": "warning",
    "vocabulary_coverage": "warning",
    "coverage_change": "warning",
    "top_values_change": "warning",
    "hash_collision_rate": "warning",
    "linf_drift": "warning",
    "js_drift": "warning",
    "linf_skew": "warning",
    "js_skew": "warning",
    "leakage": "error",
    "immature_direct": "error",
    "immature_delayed": "error",
    "prevalence_change": "warning",
    "split_prevalence_change": "warning",
}
"""Every code, and its severity unless `validation.severity` says otherwise."""


@dataclass(frozen=True)
class Anomaly:
    """One fault.

    Attributes:
        code: One of `CODES`.
        severity: `error` or `warning`.
        source: What the data set was compared with: itself, a schema, another data set, or what
            was compared with it: logged requests.
        feature: The feature; `NAME[PART]` for a vector's component or a sequence's length.
        value: What was found; None where no number says it.
        bound: The value that would still be accepted; None where there is none.
        message: What is wrong and what to do.
    """

    code: str
    severity: Severity
    source: Source
    feature: str
    value: float | None
    bound: float | None
    message: str

    def to_json(self) -> dict[str, Any]:
        """Returns the anomaly as a JSON object."""
        return dataclasses.asdict(self)


class Anomalies:
    """Collects anomalies; the settings decide on their severity and leave some out.

    Raises:
        ConfigError: The settings name a code that there is not.

    Example:
        >>> found = Anomalies(ValidationConfig(severity={"null_rate": "error"}, exclude=("age",)))
        >>> for name in ("price", "age"):
        ...     found.add("null_rate", "data", name, 0.9, 0.5, "many nulls")
        >>> [(anomaly.feature, anomaly.severity) for anomaly in found.found]
        [('price', 'error')]
    """

    def __init__(self, config: ValidationConfig) -> None:
        self.found: list[Anomaly] = []
        self._severity = config.severity
        self._exclude = frozenset(config.exclude)
        for code in (*config.severity, *(e.partition(":")[0] for e in self._exclude if ":" in e)):
            if code not in CODES:
                raise ConfigError(
                    f"validation: unknown code {code!r}{_hint(code, CODES)}; known: {list(CODES)}"
                )

    def check_excluded(self, names: Iterable[str]) -> None:
        """Checks that the features left out by the settings exist.

        Raises:
            ConfigError: One is not among `names`.
        """
        known = set(names)
        for entry in sorted(self._exclude):
            name = entry.rpartition(":")[2].partition("[")[0]
            if name not in known:
                raise ConfigError(
                    f"validation.exclude: unknown feature {name!r}{_hint(name, known)}"
                )

    def add(
        self,
        code: str,
        source: Source,
        feature: str,
        value: float | None,
        bound: float | None,
        message: str,
    ) -> None:
        """Adds an anomaly, unless its code is off or its feature excluded."""
        severity = self._severity.get(code, CODES[code])
        names = {feature, feature.partition("[")[0]}
        if severity == "off" or self._exclude & {*names, *(f"{code}:{name}" for name in names)}:
            return
        self.found.append(Anomaly(code, severity, source, feature, value, bound, message))

    def count(self, severity: Severity) -> int:
        """Returns how many anomalies have a severity."""
        return sum(anomaly.severity == severity for anomaly in self.found)


def exceeds(value: float, bound: float) -> bool:
    """Returns whether a value is more than its bound, and not by rounding alone.

    Example:
        >>> exceeds(0.1 + 0.2, 0.3), exceeds(0.301, 0.3)
        (False, True)
    """
    return value > bound + 1e-12


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
