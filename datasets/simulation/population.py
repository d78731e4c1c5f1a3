"""Who there is and what there is: users and items with their hidden traits.

Traits are standard normal; `docs/simulator.md` says what each one does.
"""

from dataclasses import dataclass, fields

import numpy as np

from cmdcm.core.config import SimulateConfig
from cmdcm.datasets.simulation import Floats, Ints
from cmdcm.datasets.simulation.timeline import Timeline

FAVOURITE_CATEGORIES = 3
ZIPF = 0.9
"""Exponent of the popularity of categories, and of the items in each."""
UNBRANDED = 0.05
"""Share of items without a brand."""


@dataclass(frozen=True)
class Users:
    """Users, all arrays [users] but `favourites`.

    Attributes:
        index: Number of the user in the world, 0-based; the identifier is one more.
        sessions: Expected number of sessions; sums to 1 over all users of the world.
        arrival_ms: First instant at which the user may visit.
        intent: How readily the user carts and buys.
        waiting: How much the user waits for promotions to buy; the same in all of them.
        sensitivity: Sensitivity to prices and discounts.
        loyalty: Share of sessions that go to a favourite category.
        favourites: [users, FAVOURITE_CATEGORIES], categories.
    """

    index: Ints
    sessions: Floats
    arrival_ms: Floats
    intent: Floats
    waiting: Floats
    sensitivity: Floats
    loyalty: Floats
    favourites: Ints

    def part(self, first: int, stop: int) -> "Users":
        """Returns the users from `first` up to, not including, `stop`."""
        return Users(*(getattr(self, field.name)[first:stop] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.sessions)


@dataclass(frozen=True)
class Items:
    """Items in the order of their category, all arrays [items] but the last two.

    Attributes:
        item_id: Public identifiers; they say nothing about category or popularity.
        category: Category, 0-based.
        seller: Seller.
        brand: Brand, -1 for none.
        price: Ordinary price.
        log_price: Its logarithm, standardised over all items.
        price_level: Logarithm of the price relative to its category, standardised.
        taste: How much people like the item's category; the same for all items of it.
        appeal: Attractiveness: partly the seller's, the brand's and the category's.
        discount: Depth of the promotion discount, standardised.
        depth: The same as a share of the price.
        mass: [items + 1], running total of popularity; a category's total is its popularity.
        starts: [categories + 1], first item of each category.
    """

    item_id: Ints
    category: Ints
    seller: Ints
    brand: Ints
    price: Floats
    log_price: Floats
    price_level: Floats
    taste: Floats
    appeal: Floats
    discount: Floats
    depth: Floats
    mass: Floats
    starts: Ints

    def __len__(self) -> int:
        return len(self.item_id)

    def draw_categories(self, rng: np.random.Generator, size: int | tuple[int, ...]) -> Ints:
        """Draws categories by their popularity."""
        return np.searchsorted(self.mass[self.starts[1:-1]], rng.random(size), side="right")

    def draw_within(self, rng: np.random.Generator, category: Ints) -> Ints:
        """Draws an item of each category by popularity."""
        low, high = self.mass[self.starts[category]], self.mass[self.starts[category + 1]]
        item = np.searchsorted(self.mass, low + rng.random(len(category)) * (high - low), "right")
        # Rounding may carry a draw over its category's edge.
        return np.clip(item - 1, self.starts[category], self.starts[category + 1] - 1)


def draw_items(rng: np.random.Generator, count: int) -> Items:
    """Draws `count` items in about count / 40 categories, count / 15 sellers, count / 25 brands."""
    categories = min(max(count // 40, 5), 5_000)
    popularity = _zipf(categories)
    extra = rng.choice(categories, count - categories, p=popularity)
    category = np.sort(np.concatenate([np.arange(categories), extra]))
    starts = np.searchsorted(category, np.arange(categories + 1))
    size = np.diff(starts)[category]

    # Sellers and brands keep to a category, or to neighbouring ones.
    seller = (starts[category] + (rng.random(count) * size).astype(np.int64)) // 15
    brand = (starts[category] + (rng.random(count) * size).astype(np.int64)) // 25
    brand[rng.random(count) < UNBRANDED] = -1
    seller_traits = rng.standard_normal((2, count // 15 + 1))[:, seller]
    brand_trait = np.where(brand < 0, 0.0, rng.standard_normal(count // 25 + 1)[brand])
    category_trait = rng.standard_normal(categories)[category]
    own = rng.standard_normal((3, count))
    appeal = 0.5 * seller_traits[0] + 0.4 * brand_trait + 0.3 * category_trait + 0.7 * own[0]
    discount = 0.7 * seller_traits[1] + 0.7 * own[1]
    price = np.round(np.exp(rng.normal(4.0, 0.7, categories)[category] + 0.6 * own[2]), 2)
    taste = rng.standard_normal(categories)[category]

    # Appealing items tend to be the popular ones of their category.
    ranked = np.lexsort((rng.standard_normal(count) - 0.5 * appeal, category))
    within = np.empty(count)
    within[ranked] = (np.arange(count) - starts[category] + 1.0) ** -ZIPF
    total = np.add.reduceat(within, starts[:-1])[category]
    mass = np.concatenate([[0.0], np.cumsum(popularity[category] * within / total)])
    return Items(
        item_id=rng.permutation(count) + 1,
        category=category,
        seller=seller,
        brand=brand,
        price=price,
        log_price=(np.log(price) - 4.0) / np.hypot(0.7, 0.6),
        price_level=own[2],
        taste=taste,
        appeal=appeal,
        discount=discount,
        depth=0.05 + 0.45 / (1 + np.exp(-discount)),
        mass=mass / mass[-1],
        starts=starts,
    )


def draw_users(
    rng: np.random.Generator, count: int, config: SimulateConfig, timeline: Timeline, items: Items
) -> Users:
    """Draws `count` users, of whom `new_user_share` arrive evenly over the period."""
    period = timeline.end_ms - timeline.start_ms
    new = rng.random(count) < config.new_user_share
    arrival = timeline.start_ms + np.where(new, rng.random(count), 0.0) * period
    present = 1 - np.interp(arrival, timeline.hours, timeline.mass) / timeline.mass[-1]
    sessions = np.exp(config.activity_spread * rng.standard_normal(count)) * present
    intent, waiting, sensitivity = rng.standard_normal((3, count))
    return Users(
        index=np.arange(count),
        sessions=sessions / sessions.sum(),
        arrival_ms=arrival,
        intent=intent,
        waiting=waiting,
        sensitivity=sensitivity,
        loyalty=rng.beta(4, 2, count),
        favourites=items.draw_categories(rng, (count, FAVOURITE_CATEGORIES)),
    )


def _zipf(count: int) -> Floats:
    weights = np.arange(1, count + 1) ** -ZIPF
    return weights / weights.sum()
