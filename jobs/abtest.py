"""The simulated online experiment: one set of auctions, several policies, paired differences."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from absl import logging

from cmdcm.core.config import Config
from cmdcm.datasets.log import EventLog
from cmdcm.datasets.simulation import Floats
from cmdcm.datasets.simulation.world import World
from cmdcm.jobs.auction import METRICS, Auctions, best, draw_auctions, play
from cmdcm.jobs.candidates import visited_pairs
from cmdcm.jobs.policies import (
    ORACLE,
    Scorer,
    config_of,
    predictions,
    replay_days,
    values_of,
)
from cmdcm.model.bootstrap import Interval, UserBootstrap
from cmdcm.model.multiplicity import adjusted

KINDS = ("happened", "expected")
"""Sums of what was drawn, and of its probabilities: the same mean, less noise."""


@dataclass(frozen=True)
class Replay:
    """Auctions, and what came of them under each policy.

    Attributes:
        promotion: Name of the promotion in whose window they lie.
        days: Its local days that were replayed (ISO).
        auctions: The auctions.
        played: What `auction.play` returned for each policy.
        notes: What a reader should know.
    """

    promotion: str
    days: tuple[str, ...]
    auctions: Auctions
    played: Mapping[str, tuple[Floats, Floats]]
    notes: tuple[str, ...]


def replay(log: EventLog, policies: Mapping[str, Scorer | None], config: Config) -> Replay:
    """Replays auctions in a pre-promotion window under each policy.

    Args:
        log: A simulated event log; its manifest describes the world.
        policies: Model by name; None for the built-in ones, `oracle` and `random`.
        config: Sizes, seed of the auctions, and what made the models' examples.

    Raises:
        ConfigError: An unknown promotion, or features that are not the models'.
        DataError: A log without a world, a model that was trained on the replayed days, or too few
            items.
    """
    logging.info("opening the world of %s", log.path)
    world = World.open(config_of(log, config))
    scorers = {name: scorer for name, scorer in policies.items() if scorer is not None}
    promotion, days = replay_days(world, scorers, config)
    number = [p.name for p in world.timeline.calendar.promotions].index(promotion)
    season_start, _, season_end = world.timeline.seasons[number].tolist()
    visited = visited_pairs(log, world, season_start, season_end)
    auctions = draw_auctions(world, config.abtest, config.seed, days, visited)
    predicted = predictions(scorers, log, world, auctions, config)
    values = values_of(list(policies), predicted, world, auctions, config.seed)
    played = {
        name: play(world, auctions, best(value, config.abtest.slots))
        for name, value in values.items()
    }
    notes = [
        f"{name} is an export that does not say on which days it was trained"
        for name, scorer in scorers.items()
        if scorer.seen_days is None
    ]
    if len(auctions.user) < config.abtest.requests:
        notes.append(
            f"{len(auctions.user):,} of {config.abtest.requests:,} requests have "
            f"{config.abtest.candidates} items that their users have not met"
        )
    return Replay(promotion, tuple(str(day) for day in days), auctions, played, tuple(notes))


def compare(done: Replay, baseline: str, config: Config) -> dict[str, Any]:
    """Compares policies with a baseline, with user-clustered paired bootstrap intervals.

    Args:
        done: The auctions as they were played.
        baseline: Name of a policy.
        config: Seed, and the bootstrap's settings in the section `evaluation`.

    Returns:
        What `abtest.json` holds. Its `policies` are name -> metric -> kind (`KINDS`) ->
        `total` (an interval); `difference`, in % of the baseline (an interval with `p_value` and
        `adjusted_p_value`), for others than the baseline; and `oracle_share`, of the oracle's
        difference (an interval), for those but the oracle.

    Raises:
        KeyError: An unknown baseline.
    """
    auctions, played = done.auctions, done.played
    settings = config.evaluation
    boot = UserBootstrap(
        auctions.user, settings.bootstrap, config.seed, confidence=settings.confidence
    )
    totals = {name: np.stack(values).sum(axis=1) for name, values in played.items()}
    draws = {
        name: np.stack([boot.sums(part)[0] for part in values]) for name, values in played.items()
    }
    policies: dict[str, Any] = {}
    for name in played:
        policies[name] = {
            metric: {
                kind: _entry(boot, totals, draws, name, baseline, (k, m))
                for k, kind in enumerate(KINDS)
            }
            for m, metric in enumerate(METRICS)
        }
    for kind in KINDS:
        # The corrected family is a table: all policies and metrics of a kind.
        family = [
            policies[name][metric][kind]["difference"]
            for name in played
            if name != baseline
            for metric in METRICS
        ]
        corrected = adjusted([entry["p_value"] for entry in family], settings.correction)
        for entry, value in zip(family, corrected, strict=True):
            entry["adjusted_p_value"] = value
    return {
        "promotion": done.promotion,
        "days": list(done.days),
        "settings": config.abtest.model_dump(mode="json") | {"seed": config.seed},
        "auctions": {
            "requests": len(auctions.user),
            "users": len(np.unique(auctions.user)),
            "items": len(np.unique(auctions.item)),
        },
        "notes": list(done.notes),
        "policy_names": list(played),
        "baseline": baseline,
        "confidence": settings.confidence,
        "correction": settings.correction,
        "policies": policies,
    }


def _entry(
    boot: UserBootstrap,
    totals: Mapping[str, Floats],
    draws: Mapping[str, Floats],
    name: str,
    baseline: str,
    place: tuple[int, int],
) -> dict[str, Any]:
    """The numbers of a policy, kind and metric."""

    def of(policy: str) -> tuple[float, Floats]:
        return float(totals[policy][place]), draws[policy][place]

    total, replicates = of(name)
    entry: dict[str, Any] = {"total": boot.interval(total, replicates).to_json()}
    if name == baseline:
        return entry
    base, base_replicates = of(baseline)
    difference = _ratio(boot, (total, replicates), (base, base_replicates), (base, base_replicates))
    difference_100 = Interval(
        *(
            None if value is None else 100 * value
            for value in (difference[0].estimate, difference[0].lower, difference[0].upper)
        )
    )
    entry["difference"] = difference_100.to_json() | {"p_value": difference[1]}
    if ORACLE in totals and name != ORACLE and baseline != ORACLE:
        best_total, best_replicates = of(ORACLE)
        share, _ = _ratio(
            boot,
            (total, replicates),
            (base, base_replicates),
            (best_total - base, best_replicates - base_replicates),
        )
        entry["oracle_share"] = share.to_json()
    return entry


def _ratio(
    boot: UserBootstrap,
    of: tuple[float, Floats],
    to: tuple[float, Floats],
    by: tuple[float, Floats],
) -> tuple[Interval, float | None]:
    """Returns (of - to) / by with its interval, and the p-value of no difference if by is not 0."""
    difference, draws = of[0] - to[0], of[1] - to[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = draws / by[1]
    replicates[~np.isfinite(replicates)] = np.nan
    interval = boot.interval(difference / by[0] if by[0] else None, replicates)
    if not by[0]:
        return interval, None
    error = float(np.std(draws, ddof=1))
    if error == 0:  # the same policy
        return interval, 1.0 if difference == 0 else None
    return interval, 2 * NormalDist().cdf(-abs(difference) / error)
