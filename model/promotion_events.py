"""The four events that models of the behaviour graph predict, from the steps of the graph."""

from cmdcm.model.probability import Event, both, complement, either


def promotion_events(direct: Event, cart: Event, later: Event) -> dict[str, Event]:
    """Returns the events by their label, such that P(direct) + P(delayed) = P(conversion) <= 1.

    Args:
        direct: The direct purchase.
        cart: The cart, among all clicks.
        later: The delayed purchase, among clicks without a direct one.
    """
    return {
        "direct": direct,
        "cart": cart,
        "delayed": both(complement(direct), later),
        "conversion": either(direct, later),
    }
