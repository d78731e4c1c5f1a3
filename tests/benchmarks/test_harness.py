"""The RESULT line of a benchmark, its exit code, and the rows that benchmarks use."""

import json
import math

import pyarrow as pa
import pytest

from cmdcm.benchmarks.example_rows import benchmark_spec, example_rows
from cmdcm.benchmarks.harness import Target, medians, report, timed


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target(2.0, at_least=2), True),
        (Target(1.9, at_least=2), False),
        (Target(3.0, at_most=3), True),
        (Target(3.1, at_most=3), False),
        (Target(2.0, at_least=1, at_most=3), True),
        (Target(0.5, at_least=1, at_most=3), False),
    ],
)
def test_last_line_and_exit_code(capsys, target, met):
    code = report("name", {"rows": 5.0}, {"speed": target, "easy": Target(1, at_least=0)})
    head, _, line = capsys.readouterr().out.strip().splitlines()[-1].partition(" ")
    result = json.loads(line)
    assert head == "RESULT"
    assert (result["bench"], result["figures"]["rows"]) == ("name", 5)
    assert result["targets"]["speed"]["value"] == target.value
    assert result["targets"]["speed"]["met"] is met
    assert code == (0 if met else 1)


def test_what_could_not_be_measured_is_null_and_misses_its_target(capsys):
    figures = {"p99": math.inf, "parts": [1.0, math.nan]}
    assert report("name", figures, {"p99": Target(math.inf, at_most=2)}) == 1
    line = capsys.readouterr().out.splitlines()[-1].partition(" ")[2]
    result = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert result["figures"]["p99"] is None
    assert result["figures"]["parts"] == [1.0, None]
    assert (result["targets"]["p99"]["value"], result["targets"]["p99"]["met"]) == (None, False)


def test_medians_leave_the_first_round_out_and_take_turns():
    calls = []

    def measure(name, values):
        def run():
            calls.append(name)
            return values.pop(0)

        return run

    got = medians(measure("a", [99, 1, 5, 2]), measure("b", [0, 7, 7, 9]), repeats=3)
    assert got == [2, 7]
    assert calls == ["a", "b"] * 4


def test_timed_uses_the_clock():
    times = iter([10.0, 12.5])
    assert timed(lambda: None, lambda: next(times))() == 2.5


def test_example_rows_fit_the_spec_and_repeat():
    spec = benchmark_spec()
    table = example_rows(spec, 200, seed=1)
    assert tuple(table.column_names) == spec.names()
    assert table.equals(example_rows(spec, 200, seed=1))
    assert not table.equals(example_rows(spec, 200, seed=2))
    for columns in spec.sequences().values():
        lengths = [pa.compute.list_value_length(table[f.name]).to_pylist() for f in columns]
        assert all(other == lengths[0] for other in lengths)
        assert max(lengths[0]) <= columns[0].length
