"""Settings of the simulated world."""

from pydantic import Field, PositiveFloat, model_validator

from cmdcm.core.settings.base import IsoTime, Section


class SimulateConfig(Section):
    """The simulated world (docs/simulator.md).

    Rates are those of clicks in pre-promotion windows, if not said otherwise.

    Attributes:
        events: About how many events to draw.
        first_year: First of the simulated years.
        years: How many years.
        start: First instant of the period (ISO, calendar zone), in place of whole years.
        end: First instant after it.
        log_start: First instant that the log shows, where that is later than the start.
        promotions: Kinds of promotion in each year; none for the promotions of the section
            `calendar` that lie in the period.
        daily_traffic: Relative traffic of each day of the period, in place of ramps and spikes.
        items_per_user: Items in the world for each user.
        events_per_user: Mean number of events of a user in the whole period.
        activity_spread: Standard deviation of the logarithm of users' activity.
        new_user_share: Share of users who arrive after the start, evenly over the period.
        impressions: Items that a request shows; 0 for a log without impressions.
        click_rate: Share of all impressions that are clicked.
        micro_rate: Micro behaviours for each click.
        favourite_rate: Favourites for each click.
        direct_rate: Share of clicks that are bought before the promotion.
        direct_cart_share: Share of direct purchases that go through the cart.
        direct_delays: (seconds, share): share of direct purchases up to so long after the last
            click; log-linear in between, and cut at the end of the phase.
        cart_rate: Share of clicks that are carted before the promotion.
        carted_bought_rate: Share of open carts that are bought on the promotion days.
        uncarted_bought_rate: Share of the clicks neither carted nor bought directly that are
            bought on the promotion days.
        refund_rate: Share of direct purchases that are refunded; more of reduced ones.
        confounding: Gamma, the odds ratio by which a hidden trait of the visit shifts both carting
            and delayed purchase; 1 is none.
        hidden_selection: Scale of what carting owes to traits of users and items that no event
            shows; 0 makes it depend on price, category and time alone.
        propensity_spread: Scale of what carting depends on; the larger, the weaker the overlap.
        shift: Standard deviation of the steps in which log-odds and relative coefficients wander
            from promotion to promotion.
        promotion_effect: Scale of all that a promotion changes: traffic, prices, and who waits.
    """

    events: int = Field(1_000_000, ge=1_000)
    first_year: int = Field(2023, ge=1971, le=2200)
    years: int = Field(2, ge=1, le=10)
    start: IsoTime = ""
    end: IsoTime = ""
    log_start: IsoTime = ""
    promotions: tuple[str, ...] = ("618", "double11", "double12")
    daily_traffic: tuple[PositiveFloat, ...] = ()
    items_per_user: float = Field(0.5, gt=0)
    events_per_user: float = Field(120.0, gt=1)
    activity_spread: float = Field(1.0, ge=0, le=3)
    new_user_share: float = Field(0.4, ge=0, le=1)
    impressions: int = Field(0, ge=0, le=100)
    click_rate: float = Field(0.08, gt=0, lt=0.5)
    micro_rate: float = Field(0.13, ge=0, lt=0.5)
    favourite_rate: float = Field(0.025, ge=0, lt=0.3)
    direct_rate: float = Field(0.017, gt=0, lt=0.3)
    direct_cart_share: float = Field(0.55, ge=0, le=1)
    direct_delays: tuple[tuple[float, float], ...] = (
        (30, 0.0),
        (600, 0.35),
        (3_600, 0.55),
        (21_600, 0.68),
        (86_400, 0.87),
        (259_200, 0.96),
        (864_000, 1.0),
    )
    cart_rate: float = Field(0.07, gt=0, lt=0.5)
    carted_bought_rate: float = Field(0.08, gt=0, lt=1)
    uncarted_bought_rate: float = Field(0.003, gt=0, lt=1)
    refund_rate: float = Field(0.06, ge=0, lt=0.5)
    confounding: float = Field(1.0, ge=1)
    hidden_selection: float = Field(1.0, ge=0, le=3)
    propensity_spread: float = Field(1.0, ge=0, le=10)
    shift: float = Field(0.0, ge=0, le=2)
    promotion_effect: float = Field(1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> "SimulateConfig":
        if self.cart_rate <= self.direct_rate:
            raise ValueError("cart_rate should exceed direct_rate")
        if bool(self.start) != bool(self.end):
            raise ValueError("start and end should be given together")
        seconds, shares = zip(*self.direct_delays, strict=True) if self.direct_delays else ((), ())
        if (
            len(seconds) < 2
            or seconds[0] < 1
            or (shares[0], shares[-1]) != (0, 1)
            or list(seconds) != sorted(set(seconds))
            or list(shares) != sorted(set(shares))
        ):
            raise ValueError(
                "direct_delays should be pairs (seconds, share), both increasing, with shares from "
                "0 to 1"
            )
        return self
