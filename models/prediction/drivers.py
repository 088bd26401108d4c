"""What a driver says to a person: the value in a phrase, then what is typical."""

from __future__ import annotations

from collections.abc import Callable


def number(value: float) -> str:
    """A number as one would say it: no decimals from ten up, thousands apart."""
    if abs(value) >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}".rstrip("0").rstrip(".")


def counted(value: float, unit: str) -> str:
    """A number and its unit (given in the singular)."""
    said = number(value)
    return f"{said} {unit}" if said == "1" else f"{said} {unit}s"


def trend(value: float) -> str:
    """A balance `(a - b) / (a + b)` of two windows as the change from b to a."""
    if value <= -1.0:
        return "stopped"
    if value >= 1.0:
        return "new"
    change = 2.0 * value / (1.0 - value)  # a / b - 1
    if abs(change) < 0.005:
        return "unchanged"
    return f"up {change:.0%}" if change > 0 else f"down {-change:.0%}"


_Phrase = tuple[str, Callable[[float], str]]

PHRASES: dict[str, _Phrase] = {
    "days_since_last_campaign": ("no campaign for {}", lambda days: counted(days, "day")),
    "spend_7d": ("spent {} in 7 days", number),
    "spend_28d": ("spent {} in 28 days", number),
    "spend_56d": ("spent {} in 56 days", number),
    "spend_84d": ("spent {} in 84 days", number),
    "spend_trend_28d": ("spend {} on the 28 days before", trend),
    "spend_trend_84d": ("spend {} on the 84 days before", trend),
    "active_weeks_4w": ("active in {} of the last 4 weeks", number),
    "active_weeks_12w": ("active in {} of the last 12 weeks", number),
    "active_weeks_lifetime": ("active in {} so far", lambda weeks: counted(weeks, "week")),
    "tenure_days": ("first seen {} ago", lambda days: counted(days, "day")),
    "lifetime_spend": ("spent {} so far", number),
    "weekly_spend_mean": ("spends {} in an active week", number),
    "mean_gap_weeks": ("usually {} between active weeks", lambda weeks: counted(weeks, "week")),
    "gap_ratio": ("the current gap is {} times its usual one", number),
}


def driver_text(name: str, value: float | None, typical: float | None) -> str:
    """One line, for example "no campaign for 26 days; typical is 7 days"."""
    plain = name.replace("_", " ")
    phrase, say = PHRASES.get(name, (f"{plain} is {{}}", number))
    said = f"{plain} is not known yet" if value is None else phrase.format(say(value))
    return said if typical is None else f"{said}; typical is {say(typical)}"
