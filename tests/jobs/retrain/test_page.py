"""The decision's page as a browser shows it: one page, no scripts, nothing loaded."""

import re
from typing import Any

from cmdcm.jobs.retrain.page import page
from cmdcm.jobs.retrain.plan import STEPS
from cmdcm.jobs.retrain.steps import names


def record(**changes: object) -> dict:
    interval = {"estimate": 0.7, "lower": 0.6, "upper": 0.8}
    steps: dict[str, dict[str, Any]] = {
        name: {
            "path": f"/var/retrain/{name}",
            "summary": {"digest": "0" * 40},
            "seconds": 1.5,
            "peak_mib": 900.0,
            "reused": name == "snapshot",
        }
        for name in names(STEPS)
    }
    steps["evaluate"]["summary"] |= {
        "rows": 1234,
        "metrics": {"auc": interval},
        "against_serving": {"auc": interval},
    }
    steps["features"]["summary"] |= {"split": {"train": ["2024-03-05", "2024-03-19"]}}
    return {
        "outcome": "promoted",
        "reason": "version 4 is stable on 2 servers",
        "window": {"promotion": "double11-2026", "as_of": "2026-10-24T16:00:00+00:00"},
        "serving": "0" * 40,
        "serving_version": 3,
        "decided": "2026-10-25T02:00:00+00:00",
        "by": "ann",
        "override": None,
        "failed_step": None,
        "steps": steps,
        **changes,
    }


def test_it_says_what_was_decided_why_and_what_serves():
    text = page(record())
    assert "double11-2026 as of 2026-10-24T16:00:00+00:00: promoted" in text
    assert "So the new model serves (before: version 3)." in text
    assert "1,234 test clicks" in text and "0.6000 to 0.8000" in text
    assert not re.findall(r"<script|https?://|src=|@import", text)


def test_it_tells_what_a_refreshed_model_went_on_with():
    assert "stream" not in page(record())
    shown = record()
    shown["steps"]["refresh"]["summary"] |= {
        "days": ["2026-10-25", "2026-10-28"],
        "entries": 12_345,
        "clicks": 12_000,
        "positives": 67,
        "progressive": None,
    }
    text = page(shown)
    assert "2026-10-25 to 2026-10-28: 12,345 entries of 12,000 clicks, 67 positive" in text
    assert "trained on" not in text
    figures = {"clicks": 800, "positives": 9, "auc": None, "log_loss": 0.05, "pcoc": 1.25}
    shown["steps"]["refresh"]["summary"]["progressive"] = figures
    text = page(shown)
    assert "800 clicks with final labels, 9 positive" in text and "pcoc 1.250" in text


def test_a_failure_names_the_step_and_escapes_what_it_says():
    failed = record(
        outcome="failed",
        reason="step check failed: <b>2024-06-09</b> has no purchases",
        failed_step="check",
        override={"by": "bob", "reason": "ticket 812"},
    )
    text = page(failed)
    assert "&lt;b&gt;2024-06-09" in text and "the serving model stays" in text
    assert "overridden by bob: ticket 812" in text
    assert re.search(r'<th scope="row">check</th><td>failed</td>', text)
