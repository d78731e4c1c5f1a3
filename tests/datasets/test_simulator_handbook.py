"""The simulator's handbook page agrees with the code."""

import pytest

from cmdcm.core.config import SimulateConfig, load_config
from cmdcm.datasets.simulation.equations import EFFECTS
from cmdcm.datasets.simulation.timeline import KIND_PULL
from cmdcm.datasets.simulation.truth import TRUTH_SCHEMA
from cmdcm.tests.checkout import ROOT


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")


def rows_below(page: str, header: str) -> list[list[str]]:
    """Returns the cells of the table whose header line begins with `header`."""
    lines = page[page.index(f"\n{header}") :].strip().split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_coefficients_are_those_of_the_code(page: str):
    equations = ("click", "direct", "cart", "carted", "uncarted", "refund")
    documented: dict[str, dict[str, float]] = {name: {} for name in equations}
    for term, *cells in rows_below(page, "| term | C | D | A | r1 | r0 | refund |"):
        for name, cell in zip(equations, cells, strict=True):
            if cell:
                documented[name][term] = float(cell)
    assert documented == {name: EFFECTS[name] for name in equations}


def test_the_signs_and_kinds_are_those_of_the_code(page: str):
    for name in ("repeat", "micro", "favourite"):
        terms = [f"{c:g} {term}".lstrip("0") for term, c in EFFECTS[name].items()]
        assert " + ".join(terms) in page
    (kind,) = [row for row in rows_below(page, "| term | meaning |") if row[0] == "`kind` k"]
    for name, pull in KIND_PULL.items():
        assert f"{pull:g} for `{name}`".replace("0.", ".") in kind[1]


def test_every_setting_is_documented_with_its_default(page: str):
    documented: dict[str, str] = {}
    for names, defaults, _ in rows_below(page, "| setting | default | meaning |"):
        if "," in names:
            pairs = zip(names.split(", "), defaults.split(", "), strict=True)
            documented.update(pairs)
        else:
            documented[names] = defaults
    settings = SimulateConfig().model_dump()
    assert documented.keys() == settings.keys()
    for name, default in settings.items():
        if isinstance(default, int | float):
            assert float(documented[name]) == default, name
    assert documented["promotions"] == ", ".join(settings["promotions"])
    shares = [f"{100 * share:.0f} %" for _, share in settings["direct_delays"][1:-1]]
    assert [part.split(" in ")[0].strip() for part in documented["direct_delays"].split(",")] == [
        *shares,
        "all",
    ]


def test_the_worlds_are_the_presets(page: str):
    rows = rows_below(page, "| world | what it is for | settings |")
    default = SimulateConfig().model_dump()
    for name, _, settings, *_ in rows[1:-1]:
        given = dict(setting.split(" ") for setting in settings.split(", "))
        changed = {
            key: value
            for key, value in load_config(preset=name).simulate.model_dump().items()
            if value != default[key]
        }
        assert {key: float(value) for key, value in given.items()} == changed
    assert [row[0] for row in (rows[0], rows[-1])] == ["default", "world_taobao"]


def test_all_columns_of_the_truth_are_documented(page: str):
    documented = [row[0].split(", ") for row in rows_below(page, "| column of the truth | |")]
    keys = ["user_id", "item_id", "timestamp"]
    assert sorted(sum(documented, keys)) == sorted(TRUTH_SCHEMA.names)
