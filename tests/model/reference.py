"""CM-DCM's formulas once more, in float64 NumPy, row by row and in probability space.

Nothing here imports the code under test: probabilities are multiplied and added as such, and risks
are sums over a loop.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray
Arrays = Mapping[str, Array]


def sigmoid(x: npt.ArrayLike) -> Array:
    return np.exp(log_sigmoid(x))


def logit(p: npt.ArrayLike) -> Array:
    p = np.asarray(p, np.float64)
    return np.log(p / (1 - p))


def log_sigmoid(x: npt.ArrayLike) -> Array:
    return -np.logaddexp(0.0, -np.asarray(x, np.float64))


def cross_entropy(y: npt.ArrayLike, p: npt.ArrayLike) -> Array:
    y, p = np.asarray(y, np.float64), np.asarray(p, np.float64)
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def split_mix(value: int) -> int:
    """First output of SplitMix64 seeded with `value` (Steele, Lea and Flood, 2014)."""
    z = (value + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def smoothed_rates(counts: Array, prior_logit: Array, log_strength: Array) -> Array:
    """[rows, kinds, windows] -> [rows, pairs, windows], pairs (0, 1), (0, 2), (1, 2), ...

    The log of the smoothed rate over its prior.
    """
    kinds = counts.shape[1]
    rates = []
    pair = 0
    for b in range(1, kinds):
        for a in range(b):
            s, m = np.exp(log_strength[pair]), sigmoid(prior_logit[pair])
            rate = (counts[:, b] + s * m) / (counts[:, a] + s)
            rates.append(0.25 * (np.log(rate) - np.log(m)))
            pair += 1
    return np.stack(rates, axis=1)


def attention(
    query: Array,
    keys: Array,
    mask: Array,
    ages: Array,
    weights: Mapping[str, Array],
) -> Array:
    """DIN's activation unit with a softmax over true positions; one output at a time."""
    outputs = np.zeros_like(query)
    for n, q in enumerate(query):
        user = n if len(keys) > 1 else 0
        positions = np.flatnonzero(mask[user])
        if len(positions) == 0:
            continue
        scores = []
        for t in positions:
            k = keys[user, t]
            hidden = q @ weights["query"] + k @ weights["key"] + (q * k) @ weights["product"]
            hidden = hidden + ages[user, t] @ weights["age"] + weights["age_bias"]
            scores.append(np.maximum(hidden, 0) @ weights["score"][:, 0])
        exp = np.exp(np.array(scores) - max(scores))
        for share, t in zip(exp / exp.sum(), positions, strict=True):
            outputs[n] += share * keys[user, t]
    return outputs


def arm_risk(
    estimator: str,
    in_arm: Array,
    direct: Array,
    delayed: Array,
    outcome: Array,
    probability: Array,
    clip: float,
    imputed: Array | None = None,
) -> float:
    """Risk of one arm's outcome head, from its probabilities and the imputed ones (or errors)."""
    total, weight_sum = 0.0, 0.0
    space, count = 0, 0
    for n in range(len(in_arm)):
        if direct[n]:
            continue
        space += 1
        guess = 0.0
        if estimator.startswith("dr"):
            assert imputed is not None
            error = estimator == "dr_error"
            guess = float(imputed[n] if error else cross_entropy(imputed[n], outcome[n]))
            total += guess
        if not in_arm[n]:
            continue
        count += 1
        delta = float(cross_entropy(delayed[n], outcome[n]))
        weight = 1 / max(probability[n], clip)
        if estimator == "overlap":
            weight = 1 - probability[n]
        weight_sum += weight
        total += delta if estimator == "naive" else weight * (delta - guess)
    return float(
        total / {"naive": count, "snipw": weight_sum, "overlap": weight_sum}.get(estimator, space)
    )


def heads(
    transition: bool, estimator: str, folds: int = 1, modifiers: Sequence[str] = ()
) -> Sequence[str]:
    """Names of CM-DCM's logits, with `folds` sets of nuisances."""
    if not transition:
        return ["direct", "propensity", "cart_direct", "transition"]
    imputation = ["i1", "i0"] if estimator == "dr" else []
    if folds > 1:
        imputation = [f"{n}_{k}" for k in range(folds) for n in ("propensity", "i1", "i0")]
    prediction = ["transition"] if modifiers else []
    return ["direct", "propensity", "cart_direct", *prediction, "r1", "r0", *imputation]


def predictions(transition: bool, logits: Arrays) -> dict[str, Array]:
    """CM-DCM's named outputs; with effect modifiers `transition` is there beside the arms."""
    p = {head: sigmoid(z) for head, z in logits.items()}
    not_direct = 1 - p["direct"]
    outputs = {"p_direct": p["direct"]}
    outputs["p_cart"] = p["direct"] * p["cart_direct"] + not_direct * p["propensity"]
    if transition:
        e, r1, r0 = p["propensity"], p["r1"], p["r0"]
        mixture = e * r1 + (1 - e) * r0
        outputs["p_delayed"] = not_direct * p.get("transition", mixture)
        outputs |= {"cart_effect": r1 - r0, "propensity": e, "r1": r1, "r0": r0}
    else:
        outputs["p_delayed"] = not_direct * p["transition"]
    outputs["p_conversion"] = outputs["p_direct"] + outputs["p_delayed"]
    return outputs


def loss(
    transition: bool,
    estimator: str,
    clip: float,
    transition_weight: float,
    logits: Arrays,
    labels: Arrays,
) -> float:
    """CM-DCM's training loss, without the embeddings' penalty.

    With `fold` among the labels nuisances are cross-fitted: those of head k are of all other folds.
    """
    p = {head: sigmoid(z) for head, z in logits.items()}
    out = predictions(transition, logits)
    direct, cart, delayed = labels["direct"], labels["cart"], labels["delayed"]
    total = np.mean(cross_entropy(direct, out["p_direct"]))
    total += np.mean(cross_entropy(delayed, out["p_delayed"]))
    given_direct = np.where(direct == 1, p["cart_direct"], p["propensity"])
    total += np.mean(cross_entropy(cart, given_direct))
    if transition:
        for arm, in_arm, probability in (
            ("1", cart, p["propensity"]),
            ("0", 1 - cart, 1 - p["propensity"]),
        ):
            imputed = p.get(f"i{arm}")
            observed = (in_arm == 1) & (direct == 0)
            if "fold" in labels:
                rows = range(len(direct))
                fold = labels["fold"]
                e = np.array([p[f"propensity_{fold[n]}"][n] for n in rows])
                probability = e if arm == "1" else 1 - e
                imputed = np.array([p[f"i{arm}_{fold[n]}"][n] for n in rows])
                for k in set(fold.tolist()):
                    learns = observed & (fold != k)
                    error = cross_entropy(delayed, p[f"i{arm}_{k}"])[learns].mean()
                    total += transition_weight / len(set(fold.tolist())) * error
            elif imputed is not None:
                total += transition_weight * cross_entropy(delayed, imputed)[observed].mean()
            data = (in_arm, direct, delayed, p[f"r{arm}"], probability, clip)
            total += transition_weight * arm_risk(estimator, *data, imputed)
        for k in sorted(set(labels.get("fold", np.array([])).tolist())):
            learns = (direct == 0) & (labels["fold"] != k)
            error = learns * cross_entropy(cart, p[f"propensity_{k}"])
            total += transition_weight / len(set(labels["fold"].tolist())) * error.mean()
    return float(total)
