"""Settings of all tests, and a small simulated world that several test files share."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from cmdcm.core.config import Config, load_config

# No test fails because a machine is slow or busy: the first call of a compiled function takes
# seconds, and Hypothesis by default allows an example 200 ms.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")

SMALL = (
    "simulate.events=60000",
    "features.user_buckets=500",
    "features.item_buckets=500",
    "features.clicked_length=8",
    "features.intent_length=4",
    "model.trunk_units=[16, 8]",
    "model.tower_units=[8]",
    "model.gate_units=4",
    "model.cross_rank=4",
    "training.batch_size=256",
    "training.epochs=2",
    "training.checkpoint_steps=7",
    "training.shuffle_buffer=2000",
    "tracking.mlflow=false",
    "evaluation.bootstrap=20",
    "export.warmup_candidates=[1, 10]",
    "export.max_warmup_rows=5",
)
"""Settings of a run that takes seconds."""


@dataclass(frozen=True)
class SmallWorld:
    """Where the small world lies, and the configuration that made it."""

    config: Config
    events: Path
    truth: Path
    examples: Path


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """Makes the world once a test process."""
    from cmdcm.datasets.log import open_event_log
    from cmdcm.datasets.simulator import simulate
    from cmdcm.features.pipeline import build_dataset

    config = load_config(overrides=SMALL)
    root = tmp_path_factory.mktemp("world")
    simulate(root, config)
    build_dataset(open_event_log(root / "events"), root / "examples", config)
    return SmallWorld(config, root / "events", root / "truth", root / "examples")
