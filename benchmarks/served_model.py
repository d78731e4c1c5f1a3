"""An export of the default model with random weights, made once, and traffic for it."""

import hashlib
import shutil
from pathlib import Path

import numpy as np

from cmdcm.benchmarks.example_rows import benchmark_spec, example_rows
from cmdcm.benchmarks.harness import BUILD
from cmdcm.core.config import Config
from cmdcm.core.files import write_manifest
from cmdcm.export.saved_model import save_model
from cmdcm.export.warmup import WARMUP_FILE, requests, write_warmup
from cmdcm.features.encode import encode_examples
from cmdcm.features.spec import FeatureSpec, subset
from cmdcm.jobs.loadtest.traffic import Mix, Rows, Traffic, read_rows
from cmdcm.model.registry import make_model
from cmdcm.model.trained import zero_inputs

NAME = "cmdcm"
SIZES = (100, 500, 1000)
VERSIONS = (1, 2)

_ROWS = 200
_ROOT = Path(__file__).resolve().parents[1]


def served_model() -> Path:
    """Returns a base path with the versions 1 and 2 of a model, equal but for their weights.

    It is made anew when the code of model or export, or the default settings have changed.
    """
    sources = [*sorted(_ROOT.glob("model/*.py")), *sorted(_ROOT.glob("export/*.py"))]
    made_of = hashlib.sha256(Config().model_dump_json().encode())
    for source in [*sources, Path(__file__)]:
        made_of.update(source.read_bytes())
    base = BUILD / f"served-{made_of.hexdigest()[:16]}"
    if not base.exists():
        for old in BUILD.glob("served-*"):
            shutil.rmtree(old)
        staging = base.with_name(f".{base.name}")
        shutil.rmtree(staging, ignore_errors=True)
        for version in VERSIONS:
            _export(staging / str(version), seed=version)
        staging.rename(base)
    return base


def served_spec(base: Path) -> FeatureSpec:
    """Returns the inputs of the model."""
    spec = FeatureSpec.load(base / "1" / "assets.extra" / "feature_spec.json")
    return subset(spec, [feature.name for feature in spec.inputs])


def traffic(base: Path, size: int) -> Traffic:
    """Returns requests of `size` candidates, from the rows of the warm-up requests."""
    return Traffic(_rows(base), served_spec(base), Mix({size: 1.0}), seed=0)


def _rows(base: Path) -> Rows:
    files = [base / "1" / WARMUP_FILE]
    return read_rows(files, served_spec(base), max_rows=10 * max(SIZES), max_bytes=1 << 26)


def _export(path: Path, seed: int) -> None:
    config, spec = Config(), benchmark_spec()
    model = make_model(spec, config.model)
    model.score(*zero_inputs(spec))
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign_add(random.normal(0, 0.02, variable.shape).astype(np.float32))
    path.mkdir(parents=True)
    save_model(model, path, config.export)
    serialized = list(encode_examples(example_rows(spec, _ROWS, seed=0)))
    write_warmup(path / WARMUP_FILE, NAME, requests(spec, serialized, SIZES))
    spec.save((path / WARMUP_FILE).with_name("feature_spec.json"))
    write_manifest(path, {"kind": "export"})
