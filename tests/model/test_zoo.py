"""The map of the zoo in the handbook is that of the models."""

from cmdcm.model.about import FAMILIES
from cmdcm.model.registry import MODELS
from cmdcm.tests.checkout import ROOT
from cmdcm.tools.model_map import with_map


def test_the_map_of_the_handbook_is_up_to_date():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert with_map(page) == page, "run `make model-map`"


def test_the_map_has_every_model_once():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for name, kind in MODELS.items():
        assert page.count(f"| [`{name}`](") == 1
        assert kind.about.family in FAMILIES
        for text in (kind.about.equation, kind.about.assumes, kind.about.use):
            assert text and "|" not in text


def test_a_page_without_the_map_gets_it_between_what_stands_there():
    page = "before\n<!-- The map of the zoo, written by `make model-map`. -->\nstale line\n"
    written = with_map(page + "<!-- End of the map. -->\nafter\n")
    assert written.startswith("before\n") and written.endswith("\nafter\n")
    assert "stale line" not in written and "`cmdcm`" in written
