"""Probabilities of the behaviour graph in log space: products and mixtures without epsilons.

An `Event` carries log p and log (1 - p), both from logits, so that a loss stays finite where a
probability underflows.
"""

from typing import NamedTuple

import tensorflow as tf


class Event(NamedTuple):
    """The log probabilities that an event happens (`yes`) and that it does not (`no`), [N]."""

    yes: tf.Tensor
    no: tf.Tensor


def from_logit(logit: tf.Tensor) -> Event:
    """The event whose probability is sigmoid(logit)."""
    return Event(-tf.nn.softplus(-logit), -tf.nn.softplus(logit))


def to_logit(event: Event) -> tf.Tensor:
    """The log-odds of an event.

    Example:
        >>> to_logit(from_logit(tf.constant([-3.0]))).numpy()
        array([-3.], dtype=float32)
    """
    return event.yes - event.no


def complement(event: Event) -> Event:
    """The event that `event` does not happen."""
    return Event(event.no, event.yes)


def mixture(condition: Event, then: Event, otherwise: Event) -> Event:
    """Total probability: P(c) * P(then) + (1 - P(c)) * P(otherwise).

    Example:
        >>> half = from_logit(tf.constant([0.0]))
        >>> sure = from_logit(tf.constant([100.0]))
        >>> round(float(tf.exp(mixture(half, sure, half).yes[0])), 6)
        0.75
    """
    return Event(
        log_add(condition.yes + then.yes, condition.no + otherwise.yes),
        log_add(condition.yes + then.no, condition.no + otherwise.no),
    )


def both(first: Event, second: Event) -> Event:
    """P(first) * P(second | first): both happen."""
    return Event(first.yes + second.yes, log_add(first.no, first.yes + second.no))


def either(first: Event, second: Event) -> Event:
    """P(first) + (1 - P(first)) * P(second | not first): at least one happens."""
    return complement(both(complement(first), complement(second)))


def log_add(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """log(exp a + exp b) of two events that exclude each other."""
    # Their probabilities add up to at most one; rounding alone would pass it by 1e-7.
    return tf.minimum(tf.reduce_logsumexp(tf.stack([a, b]), axis=0), 0.0)
