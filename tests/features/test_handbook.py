"""The handbook's page of labels and features is whole."""

from cmdcm.core.config import LabelsConfig
from cmdcm.features.columns import USER_PROMOTIONS
from cmdcm.tests.checkout import ROOT
from cmdcm.tests.features.logs import Log

ENTITIES = ("category_id", "seller_id", "brand_id", "price")


def test_every_column_is_defined_in_the_handbook():
    log = Log(
        [],
        columns=("user_id", "item_id", "kind", "timestamp", *ENTITIES),
        labels=LabelsConfig(values=True),
    )
    page = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    names = {*log.spec.names(), *USER_PROMOTIONS, *log.spec["user_counts"].components[:2]}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
