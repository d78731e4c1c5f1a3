"""How many servers a peak needs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdcm.core.config import ServerGroupConfig
from cmdcm.core.errors import DataError
from cmdcm.jobs.deployment.sizing import (
    measured_cpu_ms,
    memory_advice,
    sizing,
    sizing_advice,
)


@given(
    st.floats(0.1, 1e5),
    st.floats(0.1, 100),
    st.integers(1, 64),
    st.floats(0.1, 1, exclude_min=True),
)
def test_one_server_can_be_lost_and_no_two(peak, cpu_ms, cpus, utilisation):
    found = sizing(peak, cpu_ms, cpus, utilisation)
    busy = peak * cpu_ms / 1000
    assert found.busy_cpus == pytest.approx(busy)
    assert busy <= (found.servers - 1) * cpus * utilisation * (1 + 1e-6)
    assert busy > (found.servers - 2) * cpus * utilisation * (1 - 1e-6)


def test_an_exact_fit_is_not_rounded_up():
    # 100/s x 12 ms = 1.2 CPUs, which is one server of 2 CPUs at 60 %, and one to spare.
    assert sizing(100, 12, 2, 0.6).servers == 2


def test_advice():
    group = ServerGroupConfig(peak_requests_per_second=100, min_replicas=2, max_replicas=3)
    assert sizing_advice("candidates", group, 0.6, 12) == [
        "candidates: 100 requests/s x 12 ms = 1.2 busy CPUs; with 2 CPUs at 60%: 2 servers, one of "
        "them to spare"
    ]
    more = sizing_advice("candidates", group, 0.6, 60)
    assert "max_replicas = 3 is too few" in more[1]
    assert "set deploy.candidates.min_replicas = 6 before a promotion" in more[2]
    (none,) = sizing_advice("examples", ServerGroupConfig(), 0.6, 0)
    assert "set deploy.examples.peak_requests_per_second" in none


def test_three_versions_have_to_fit_the_memory(tmp_path):
    (tmp_path / "variables").mkdir()
    with (tmp_path / "variables" / "data").open("wb") as stream:
        stream.truncate(100 << 20)  # 100 MiB
    assert memory_advice("examples", ServerGroupConfig(memory_mib=300), tmp_path) == []
    (line,) = memory_advice("examples", ServerGroupConfig(memory_mib=299), tmp_path)
    assert "3 versions of 100 MiB need more than deploy.examples.memory_mib = 299" in line
    (tmp_path / "assets.extra" / "model").mkdir(parents=True)
    (tmp_path / "variables" / "data").rename(tmp_path / "assets.extra" / "model" / "weights")
    assert memory_advice("examples", ServerGroupConfig(memory_mib=299), tmp_path) == []


def test_cpu_time_from_a_load_test(tmp_path):
    path = tmp_path / "loadtest.json"
    results = [
        {"signature": "score_candidates", "server_cpu_ms": 9.5},
        {"signature": "score_candidates", "server_cpu_ms": 10.5},
        {"signature": "serving_default", "server_cpu_ms": None},
    ]
    path.write_text(json.dumps({"results": results}))
    assert measured_cpu_ms(path, "score_candidates") == 10.5
    assert measured_cpu_ms(path, "serving_default") == 0


@pytest.mark.parametrize("text", ["[]", "{}", '{"results": [{}]}', '{"results": [1]}', "{"])
def test_a_file_that_is_no_load_test(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json"):
        measured_cpu_ms(tmp_path / "x.json", "score_candidates")
