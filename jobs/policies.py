"""Policies of an experiment: what orders the candidates of a request."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from cmdcm.core.config import Config
from cmdcm.core.errors import ConfigError, DataError
from cmdcm.core.files import MANIFEST, read_manifest
from cmdcm.datasets.calendar import PromotionCalendar, calendar_of
from cmdcm.datasets.log import EventLog
from cmdcm.datasets.simulation import Floats
from cmdcm.datasets.simulation.randomness import stream
from cmdcm.datasets.simulation.world import World
from cmdcm.export.signatures import EXAMPLES_SIGNATURE
from cmdcm.features.encode import encode_examples
from cmdcm.features.input import parse_examples
from cmdcm.features.spec import FeatureSpec
from cmdcm.jobs.auction import RANDOM, Auctions, first_slot
from cmdcm.jobs.candidates import candidate_examples, described, inputs_of
from cmdcm.model.trained import MODEL, load_model, seen_days

ORACLE, CHANCE = "oracle", "random"
BUILT_IN = (ORACLE, CHANCE)
"""The policies that are no models: the true probabilities, and chance."""

BATCH = 4096
OUTPUT = "p_conversion"

Score = Callable[[tf.Tensor], tf.Tensor]
"""From serialized examples [n] to P(conversion | click) [n]."""


@dataclass(frozen=True)
class Scorer:
    """A model that takes part.

    Attributes:
        score: Its predictions.
        inputs: What its inputs are, as `candidates.inputs_of` has it.
        seen_days: Days that it was trained or stopped on; None where that is not known.
        test_days: Days that its split left for testing.
    """

    score: Score
    inputs: Sequence[str]
    seen_days: frozenset[str] | None
    test_days: frozenset[str] | None


def open_scorer(directory: Path) -> Scorer:
    """Opens a trained model (`RUN/model`) or an exported version of one.

    Raises:
        DataError: The directory is neither.
    """
    if not (directory / "saved_model.pb").exists():
        split = read_manifest(directory, MODEL)["split"]
        model = load_model(directory)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
        def score(serialized: tf.Tensor) -> tf.Tensor:
            return model.scorer(parse_examples(serialized, model.spec.inputs))[OUTPUT]

        test = frozenset(split["test"])
        return Scorer(score, described(model.spec), seen_days(directory), test)
    loaded = tf.saved_model.load(str(directory))
    signature = loaded.signatures[EXAMPLES_SIGNATURE]

    def served(serialized: tf.Tensor, keep: object = loaded) -> tf.Tensor:
        # A signature does not keep the variables of its SavedModel alive.
        return signature(examples=serialized)[OUTPUT]

    spec = FeatureSpec.load(directory / "assets.extra" / "feature_spec.json")
    whole = (directory / MANIFEST).exists()
    seen = read_manifest(directory, "export").get("seen_days") if whole else None
    return Scorer(served, described(spec), None if seen is None else frozenset(seen), None)


def replay_days(
    world: World, scorers: Mapping[str, Scorer], config: Config
) -> tuple[str, np.ndarray]:
    """Returns the promotion's name and the local days of its window that are replayed.

    Raises:
        ConfigError: The world has no such promotion.
        DataError: A model was trained on these days, or no day is left.
    """
    calendar, settings = world.timeline.calendar, config.abtest
    names = [promotion.name for promotion in calendar.promotions]
    name = settings.promotion or names[-1]
    if name not in names:
        raise ConfigError(f"abtest.promotion: the world has no {name!r}; it has {names}")
    days = window_days(calendar, name)
    for model, scorer in scorers.items():
        if scorer.test_days is None:
            continue
        left = [day for day in days if str(day) in scorer.test_days]
        if not left:
            raise DataError(
                f"{name}: no day of its window is a test day of model {model!r}; train with a "
                "split that leaves it for testing, or replay another abtest.promotion"
            )
        days = np.array(left)
    days = days[-settings.days :]
    for model, scorer in scorers.items():
        seen = sorted({str(day) for day in days} & (scorer.seen_days or set()))
        if seen:
            raise DataError(f"model {model!r} was trained on {', '.join(seen)}, to be replayed")
    return name, days


def window_days(calendar: PromotionCalendar, name: str) -> np.ndarray:
    """Returns the local days of a promotion's pre-promotion window."""
    promotion = calendar.get(name)
    bounds = np.array([promotion.pre_promotion_start_ms, promotion.promotion_start_ms - 1])
    first, last = calendar.local_days(bounds)
    return np.arange(first, last + np.timedelta64(1, "D"))


def predictions(
    scorers: Mapping[str, Scorer], log: EventLog, world: World, auctions: Auctions, config: Config
) -> dict[str, Floats]:
    """Returns each model's P(conversion | click) of the candidates, [requests, candidates].

    Raises:
        ConfigError: A model has other inputs than the configuration makes.
    """
    made = inputs_of(log, config)
    for name, scorer in scorers.items():
        if list(scorer.inputs) != made:
            raise ConfigError(
                f"model {name!r} has other inputs than [features], [labels] and [calendar] make "
                "of this log; pass the --preset, --config and --set of its examples"
            )
    values = {name: np.full(auctions.item.size, np.nan) for name in scorers}
    if scorers:
        logging.info("making features of %d candidates", auctions.item.size)
        for places, table in candidate_examples(log, world, auctions, config):
            serialized = list(encode_examples(table))
            for start in range(0, len(serialized), BATCH):
                block = tf.constant(serialized[start : start + BATCH])
                for name, scorer in scorers.items():
                    values[name][places[start : start + BATCH]] = scorer.score(block).numpy()
    return {name: value.reshape(auctions.item.shape) for name, value in values.items()}


def values_of(
    names: Sequence[str],
    predicted: Mapping[str, Floats],
    world: World,
    auctions: Auctions,
    seed: int,
) -> dict[str, Floats]:
    """Returns by what each policy orders the candidates, [requests, candidates].

    It is bid * P(click) * P(conversion | click): the first two are the same for all, the last one
    is the policy's. `random` is chance alone.
    """
    click, conversion = first_slot(world, auctions)
    values = {}
    for name in names:
        if name == CHANCE:
            values[name] = stream(seed, RANDOM).random(auctions.item.shape)
        else:
            values[name] = (
                auctions.bid * click * (conversion if name == ORACLE else predicted[name])
            )
    return values


def config_of(log: EventLog, config: Config) -> Config:
    """Returns the configuration of a simulated log's world: seed and world are the log's own.

    Raises:
        DataError: The log is not simulated.
        ConfigError: Its promotions are not those of the configuration's calendar.
    """
    manifest = log.manifest
    if manifest.get("source") != "simulator":
        raise DataError(f"{log.path} is no simulated log: only a simulated world answers policies")
    simulate = {"seed": manifest["seed"], "simulate": manifest["simulate"]}
    merged = Config.model_validate(config.model_dump() | simulate)
    names = {promotion.name for promotion in calendar_of(merged.calendar).promotions}
    if not names >= set(manifest["promotions"]):
        raise ConfigError(
            f"the promotions {manifest['promotions']} of {log.path} are not all in [calendar]; "
            "pass the --preset or --config of the world"
        )
    return merged
