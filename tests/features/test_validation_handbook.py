"""The handbook's page on validation: its examples run, and it leaves no code or setting out."""

import doctest

import pytest

from cmdcm.core.config import ValidationConfig
from cmdcm.features.anomalies import CODES
from cmdcm.tests.checkout import ROOT

PAGE = ROOT / "docs" / "validation.md"


def test_the_examples_run():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 40
    assert result.failed == 0


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_listed_with_its_severity(code):
    lines = PAGE.read_text("utf-8").splitlines()
    rows = [line for line in lines if line.startswith(f"| `{code}` | ")]
    assert rows[0].split("|")[2].strip() == CODES[code]


@pytest.mark.parametrize("setting", ValidationConfig.model_fields)
def test_every_setting_is_explained(setting):
    page = PAGE.read_text("utf-8")
    assert f"`{setting}`" in page or f"\n{setting} = " in page or f"[validation.{setting}]" in page
