"""Which job meets which fault, and when."""

import pytest

from cmdcm.core.errors import ConfigError
from cmdcm.datasets.calendar import yearly
from cmdcm.jobs.year.faults import FAULTS, LEAD, fault_named
from cmdcm.jobs.year.plan import plan

CALENDAR = yearly(["618", "double11", "double12"], [2022, 2023, 2024], "Asia/Shanghai")
NAMES = [p.name for p in CALENDAR.promotions]


def test_a_job_before_each_window_and_nights_inside_it():
    nights = plan(CALENDAR, NAMES[:4], [], lead_days=3, nights=2)
    assert [(n.promotion, n.job, n.as_of) for n in nights] == [
        ("618-2023", "lead", "2023-06-05"),  # the window is 8 to 17 June
        ("618-2023", "night", "2023-06-11"),
        ("618-2023", "night", "2023-06-15"),
    ]
    assert {n.fault for n in nights} == {None}


def test_every_fault_is_met_once_by_its_kind_of_job_and_not_by_the_first():
    nights = plan(CALENDAR, NAMES, list(FAULTS.values()))
    met = [(n.job, n.fault) for n in nights if n.fault]
    assert sorted(fault.name for _, fault in met) == sorted(FAULTS)
    assert all(fault.job == job for job, fault in met)
    assert nights[0].fault is None and nights[0].job == LEAD
    assert [n.as_of for n in nights] == sorted(n.as_of for n in nights)


def test_too_few_jobs_promotions_or_days_are_told():
    lead = [f for f in FAULTS.values() if f.job == LEAD]
    with pytest.raises(ConfigError, match=r"5 faults meet a lead job .* there are 1"):
        plan(CALENDAR, NAMES[:5], lead)
    with pytest.raises(ConfigError, match="has 3 promotions"):
        plan(CALENDAR, NAMES[:3], [])
    with pytest.raises(ConfigError, match="window of 618-2023 has 10 days"):
        plan(CALENDAR, NAMES[:4], [], nights=10)
    with pytest.raises(ConfigError, match="unknown fault 'fire'"):
        fault_named("fire")
