"""The handbook page on calibration agrees with the code."""

import json
import re

from cmdcm.core.config import CalibrationConfig
from cmdcm.model.calibrate import KNOT_POSITIVES, MAX_KNOTS
from cmdcm.tests.checkout import ROOT


def test_every_setting_is_documented_with_its_default():
    page = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page, re.M))
    assert listed == {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in CalibrationConfig().model_dump(mode="json").items()
    }
    assert f"bins of about {KNOT_POSITIVES} positives (at most {MAX_KNOTS})" in page
