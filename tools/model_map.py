"""Writes the map of the zoo in docs/models.md from the models themselves: `make model-map`."""

from pathlib import Path

from cmdcm.core.config import FeaturesConfig, LabelsConfig, ModelConfig
from cmdcm.datasets.calendar import yearly
from cmdcm.datasets.events import event_schema
from cmdcm.features.columns import example_spec
from cmdcm.model.about import FAMILIES
from cmdcm.model.registry import MODELS

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
START = "<!-- The map of the zoo, written by `make model-map`. -->\n"
END = "<!-- End of the map. -->\n"
_TITLES = ("`model.name`", "equation", "assumes", "take it", "heads trained / served", "source")


def model_map() -> str:
    """Returns the map: a table for each family of models."""
    spec = example_spec(
        FeaturesConfig(), event_schema(), yearly(["618"], [2024], "UTC"), LabelsConfig()
    )
    parts = []
    for family in FAMILIES:
        rows = []
        for name, kind in MODELS.items():
            about = kind.about
            if about.family != family:
                continue
            model = kind(spec, ModelConfig().model_copy(update={"name": name}))
            heads = f"{len(model.heads)} / {len(model.served_heads())}"
            cost = f"{heads}; {about.cost}" if about.cost else heads
            module = kind.__module__.removeprefix("cmdcm.").replace(".", "/") + ".py"
            link = f"[`{name}`](../{module})"
            rows.append((link, about.equation, about.assumes, about.use, cost, about.source))
        if rows:
            table = [_TITLES, ("---",) * len(_TITLES), *rows]
            lines = [f"| {' | '.join(cells)} |" for cells in table]
            parts.append("\n".join([f"**{family[0].upper()}{family[1:]}**", "", *lines, ""]))
    return "\n".join(parts)


def with_map(page: str) -> str:
    """Returns the page with the map of today."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{model_map()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_map(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
