"""CM-DCM's third module: the counterfactual transition add-to-cart -> delayed conversion.

The paper (arXiv 2604.21675) names the module; this is our construction. Among clicks without a
direct purchase (D = 0) let A say whether the click led to a cart, and let L(1), L(0) be the delayed
purchases that there would be with and without it. The heads are

    e  = P(A = 1 | D = 0, x)        propensity
    r1 = P(L | do(A = 1), D = 0, x)  r0 = P(L | do(A = 0), D = 0, x)

    p_delayed = (1 - p_direct) * (e r1 + (1 - e) r0)        cart effect tau = r1 - r0

L(1) is seen on carted clicks alone, so r1 and r0 are trained with a risk that stands for all
clicks with D = 0: with z the logit and w = [in arm] / max(P(arm), clip) without a gradient,

    naive  mean over the arm of BCE(L, z)
    ipw    mean over D = 0 of w BCE(L, z)
    snipw  sum of w BCE(L, z) / sum of w
    overlap  the same with w = [in arm] (1 - P(arm)), which stands for the clicks weighted by
           e (1 - e): those that may as well be carted as not (Li, Morgan, Zaslavsky, 2018)
    dr     mean over D = 0 of BCE(m, z) + w (BCE(L, z) - BCE(m, z))

m = P(L | arm, D = 0, x) is an imputed outcome without a gradient, from a head of its own that is
trained by the naive risk. BCE is linear in the label, so `dr` is the BCE of the pseudo-outcome
m + w (L - m) of Robins, Rotnitzky and Zhao (1994): if P(arm) or m is right, its mean given x is
that of L(arm), and so not only the risk's value but its minimiser is right.

With cross-fitting (Chernozhukov et al., 2018) each fold k of users has nuisance heads of its own,
`propensity_k`, `i1_k` and `i0_k`, that are trained on the other folds; the `dr` risk of a click
takes those of its user's fold. Their towers have not seen the user, the shared layers have.

ESCM2 (SIGIR 2022) imputes the error BCE(L, z) instead, by a head of its own that does not know z:

    dr_error  mean over D = 0 of dh + w (BCE(L, z) - dh), dh trained by the mean of w (BCE - dh)^2

Its value is doubly robust too, but its gradient for z is that of `ipw`, and so is what the outcome
head learns.

Identification rests on consistency, positivity and ignorability given x; nothing here can test the
last one.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from cmdcm.model.heads import ARM_ESTIMATORS, FOLD, SPACES, Head, HeadLoss, Labels
from cmdcm.model.inputs import Tensors
from cmdcm.model.losses import binary_cross_entropy
from cmdcm.model.probability import Event, from_logit, mixture
from cmdcm.model.weights import importance_weights, overlap_weights

ARMS = {"1": "carted", "0": "uncarted"}
"""The arms and their task spaces."""

RISKS = {space: f"r{arm}" for arm, space in ARMS.items()}
"""The outcome head of each task space."""

IMPUTED = {space: f"i{arm}" for arm, space in ARMS.items()}
"""The imputed outcome, or error, of each task space."""

IMPUTATIONS = {"dr": "naive", "dr_error": "imputed_error"}
"""The estimators with an imputation, and how it is trained."""


def transition_heads(
    estimator: str, weight: float, folds: int = 1, linear: bool = False
) -> list[Head]:
    """The outcome heads `r1`, `r0` and, for `dr` and `dr_error`, the imputations `i1`, `i0`.

    Args:
        estimator: One of `ARM_ESTIMATORS`, or `entire_space` for heads without a risk.
        weight: Weight of each risk in the total.
        folds: With K > 1, of `dr`, K sets of nuisances; they share the weight of one.
        linear: Whether `r1` and `r0` are linear in the effect modifiers (`model/modifiers.py`).
    """
    heads = [
        Head(f"r{arm}", "delayed", space, weight, estimator, linear=linear)
        for arm, space in ARMS.items()
    ]
    if estimator not in IMPUTATIONS:
        return heads
    if folds == 1:
        return heads + [
            Head(f"i{arm}", "delayed", space, weight, IMPUTATIONS[estimator])
            for arm, space in ARMS.items()
        ]
    share = weight / folds
    for k in range(folds):
        heads.append(Head(f"propensity_{k}", "cart", "not_direct", share, "bce", k))
        heads += [
            Head(f"i{arm}_{k}", "delayed", space, share, "naive", k) for arm, space in ARMS.items()
        ]
    return heads


def transition_event(cart: Event, r1: tf.Tensor, r0: tf.Tensor) -> Event:
    """P(L = 1 | D = 0, x) = e r1 + (1 - e) r0, from the cart's event and the logits, [N] each."""
    return mixture(cart, from_logit(r1), from_logit(r0))


def arm_risk(
    in_arm: tf.Tensor,
    space: tf.Tensor,
    delayed: tf.Tensor,
    logits: tf.Tensor,
    probability: tf.Tensor,
    estimator: str,
    clip: float,
    imputed: tf.Tensor | None = None,
) -> HeadLoss:
    """Risk of the logits of one arm's outcome.

    Args:
        in_arm: [N], 1 where the click took this arm; inside `space`.
        space: [N], 1 on the clicks that the risk stands for, D = 0.
        delayed: [N], the outcome L; read in the arm only.
        logits: [N], of the arm's outcome head.
        probability: [N], P(arm | x); gets no gradient.
        estimator: One of `ARM_ESTIMATORS`.
        clip: Lower bound of `probability` in the weights.
        imputed: [N], logits of the imputed outcome m, for `dr`, or the imputed error, for
            `dr_error`; get no gradient.
    """
    if estimator not in ARM_ESTIMATORS:
        raise ValueError(f"`estimator` should be one of {ARM_ESTIMATORS}. Received: {estimator}")
    # Outside the arm the outcome is the other arm's: it counts by weights of zero alone.
    losses = binary_cross_entropy(delayed, logits)
    if estimator == "naive":
        return HeadLoss(losses, in_arm)
    if estimator == "overlap":
        return HeadLoss(losses, overlap_weights(in_arm, probability).values)
    weights = importance_weights(in_arm, probability, clip).values
    if estimator == "snipw":
        return HeadLoss(losses, weights)
    if estimator == "ipw":
        return HeadLoss(losses, weights, base=space)
    if imputed is None:
        raise ValueError("`imputed` is needed for the doubly robust estimators. Received: None")
    if estimator == "dr_error":
        error = tf.stop_gradient(imputed)
        return HeadLoss(error + weights * (losses - error), space)
    outcome = tf.stop_gradient(tf.sigmoid(imputed))
    return HeadLoss(binary_cross_entropy(outcome + weights * (delayed - outcome), logits), space)


def imputation_risk(
    in_arm: tf.Tensor,
    space: tf.Tensor,
    delayed: tf.Tensor,
    logits: tf.Tensor,
    probability: tf.Tensor,
    clip: float,
    imputed: tf.Tensor,
) -> HeadLoss:
    """Risk of an imputed error: w (BCE(L, z) - dh)^2, mean over `space`; z gets no gradient.

    Args:
        in_arm: As in `arm_risk`, like all that follows but the last.
        space: [N].
        delayed: [N].
        logits: [N].
        probability: [N].
        clip: Lower bound of `probability`.
        imputed: [N], the imputed error dh.
    """
    error = tf.stop_gradient(binary_cross_entropy(delayed, logits))
    weights = importance_weights(in_arm, probability, clip).values
    return HeadLoss(tf.square(error - imputed), weights, base=space)


def transition_losses(
    heads: Sequence[Head], logits: Tensors, labels: Labels, clip: float
) -> dict[str, HeadLoss]:
    """Losses of the heads among `heads` that are of an arm, as `transition_heads` makes them.

    Args:
        heads: The model's heads.
        logits: Of the heads and, where one has a risk, of `propensity`, [N] each.
        labels: `cart`, `direct` and `delayed`, and with cross-fitting `FOLD`, [N] each.
        clip: Lower bound of the propensities in the weights.
    """
    folds = sum(head.name.startswith("i1") for head in heads)
    losses = {}
    for head in heads:
        if head.estimator not in (*ARM_ESTIMATORS, "imputed_error"):
            continue
        sign = {"carted": 1.0, "uncarted": -1.0}[head.space]
        outcome = RISKS[head.space] if head.estimator == "imputed_error" else head.name
        arm = (
            head.mask(labels),
            SPACES["not_direct"](labels),
            labels[head.label],
            logits[outcome],
            tf.sigmoid(sign * _out_of_fold("propensity", logits, labels, folds)),
        )
        if head.estimator == "imputed_error":
            risk = imputation_risk(*arm, clip, logits[head.name])
        elif head.estimator in IMPUTATIONS:
            imputed = _out_of_fold(IMPUTED[head.space], logits, labels, folds)
            risk = arm_risk(*arm, head.estimator, clip, imputed)
        else:
            risk = arm_risk(*arm, head.estimator, clip)
        losses[head.name] = dataclasses.replace(risk, weight=head.weight)
    return losses


def _out_of_fold(name: str, logits: Tensors, labels: Labels, folds: int) -> tf.Tensor:
    """Logits of a nuisance, [N]; with cross-fitting those of the head that left the row out."""
    if folds < 2:
        return logits[name]
    stacked = tf.stack([logits[f"{name}_{k}"] for k in range(folds)], axis=1)
    return tf.gather(stacked, tf.cast(labels[FOLD], tf.int32), axis=1, batch_dims=1)
