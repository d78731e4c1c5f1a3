"""The simulator's handbook page agrees with the code."""

from cmdcm.datasets.simulation import outcomes
from cmdcm.tests.checkout import ROOT


def test_the_handbook_has_the_coefficients_of_the_code():
    text = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    table = text.split("| term | D | A | r1 | r0 |\n|---|---|---|---|---|\n")[1].split("\n\n")[0]
    equations = ("direct", "cart", "carted", "uncarted")
    documented: dict[str, dict[str, float]] = {name: {} for name in equations}
    for line in table.splitlines():
        term, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for name, cell in zip(equations, cells, strict=True):
            if cell:
                documented[name][term] = float(cell)
    assert documented == {name: outcomes.EFFECTS[name] for name in equations}
