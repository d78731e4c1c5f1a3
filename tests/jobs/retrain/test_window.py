"""Which promotion a job prepares for, and which ones are known by then."""

import pytest

from cmdcm.core.config import load_config
from cmdcm.core.errors import ConfigError
from cmdcm.jobs.retrain.window import NEXT, Window, promotion_name

PROMOTIONS = """calendar.promotions=[
  {name="a", kind="618", warmup_start="2025-05-20", pre_promotion_start="2025-05-30",
   promotion_start="2025-06-16", promotion_end="2025-06-19"},
  {name="b", kind="double11", warmup_start="2025-10-15", pre_promotion_start="2025-10-25",
   promotion_start="2025-11-11", promotion_end="2025-11-12"},
]"""
CONFIG = load_config(overrides=[PROMOTIONS.replace("\n", " "), "calendar.timezone=Asia/Shanghai"])


@pytest.mark.parametrize(
    ("as_of", "name"),
    [
        ("2025-01-01", "a"),
        ("2025-06-18", "a"),
        ("2025-06-18T23:59:59", "a"),
        ("2025-06-19", "b"),
        ("2025-11-11", "b"),
    ],
)
def test_next_is_the_first_promotion_that_is_not_over(as_of, name):
    assert promotion_name(CONFIG, NEXT, as_of) == name
    assert Window.of(CONFIG, name, as_of).promotion.name == name


def test_a_name_stands_for_itself_and_a_calendar_without_a_next_one_is_named():
    assert promotion_name(CONFIG, "b", "2025-01-01") == "b"
    with pytest.raises(ConfigError, match="add the next one"):
        promotion_name(CONFIG, NEXT, "2025-11-12")
