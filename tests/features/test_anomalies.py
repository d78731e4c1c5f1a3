"""Settings decide what an anomaly is: severity, codes that are off, excluded features."""

import pytest

from cmdcm.core.config import ValidationConfig
from cmdcm.core.errors import ConfigError
from cmdcm.features.anomalies import CODES, Anomalies
from cmdcm.tests.features.validation_data import codes, collector


def add(anomalies: Anomalies, code: str, feature: str) -> None:
    anomalies.add(code, "data", feature, 1.0, 0.5, "do something")


def test_severity_is_the_default_one_or_the_one_set():
    _, anomalies = collector(severity={"null_rate": "error", "type": "off"})
    for code in CODES:
        add(anomalies, code, "x")
    severities = {anomaly.code: anomaly.severity for anomaly in anomalies.found}
    expected = {**CODES, "null_rate": "error"}
    del expected["type"]
    assert severities == expected
    assert anomalies.count("error") == list(expected.values()).count("error")


def test_a_feature_is_excluded_from_all_checks_or_from_one():
    _, anomalies = collector(exclude=("a", "null_rate:b", "v[1]"))
    for feature in ("a", "a[0]", "b", "b[0]", "v", "v[1]", "v[2]"):
        for code in ("null_rate", "type"):
            add(anomalies, code, feature)
    expected = {("type", "b"), ("type", "b[0]")}
    expected |= {(code, name) for code in ("null_rate", "type") for name in ("v", "v[2]")}
    assert codes(anomalies) == expected


@pytest.mark.parametrize(
    "settings", [{"severity": {"null_rat": "off"}}, {"exclude": ("null_rat:price",)}]
)
def test_an_unknown_code_is_a_configuration_error(settings):
    with pytest.raises(ConfigError, match="unknown code 'null_rat', did you mean 'null_rate'"):
        Anomalies(ValidationConfig(**settings))


def test_an_unknown_excluded_feature_is_a_configuration_error():
    for entry in ("prise", "type:prise", "prise[0]"):
        _, anomalies = collector(exclude=(entry,))
        with pytest.raises(ConfigError, match="unknown feature 'prise', did you mean 'price'"):
            anomalies.check_excluded(["price", "user_id"])
    _, anomalies = collector(exclude=("price", "type:price", "user_id[length]"))
    anomalies.check_excluded(["price", "user_id"])
