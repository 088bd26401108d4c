"""What a reader of an evaluation should know about the data, found by looking at it. None of it stops anything.

| caution | when |
|---|---|
| a hole | nobody did anything for as long as a horizon: everybody active before it counts as churned |
| returns | many of those counted as churned came back later: the horizon is shorter than usual pauses |
| strays | a few advertisers have events dated far after those of all others: the end of the data is without them |
| currencies | amounts of several are added up as they are |
| baselines | one of them ranks better than the model |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from models.dataset.labels import DAY_S, LabelPolicy, data_end, dated_by_day, label, observed_until
from models.evaluation.evaluation import Evaluation
from tocsin.clock import to_datetime

MANY_RETURN = 0.5  # of those counted as churned
_HOLES_TOLD = 3


def holes(events: pd.DataFrame, policy: LabelPolicy) -> list[str]:
    """Stretches without a single event, of anybody, as long as a label window; the longest three."""
    times = np.unique(events["event_time"].to_numpy(dtype=np.float64))
    lengths = np.diff(times)
    longest = np.argsort(-lengths, kind="stable")[:_HOLES_TOLD]
    return [
        f"nothing at all happens from {_day(times[at])} to {_day(times[at + 1])}: everybody active before that counts "
        f"as churned; check the dates around it"
        for at in sorted(longest)
        if lengths[at] > policy.horizon_s
    ]


def ahead(events: pd.DataFrame) -> list[str]:
    """Whether a few advertisers have events dated far after those of all others."""
    data = data_end(events)
    if not data.ahead:
        return []
    of = events["advertiser_id"].nunique()
    text = (
        f"{data.ahead:,} of {of:,} advertisers have events up to {_day(data.newest)}, over 7 days after all others: "
        f"the data counts as ending on {_day(data.moment)}; check their dates"
    )
    return [text]


def returned(events: pd.DataFrame, cutoffs: Sequence[float], policy: LabelPolicy) -> float | None:
    """Of those who churned, the share that was seen again after the label window.

    Asked of the cutoffs after whose window another one as long is known; None where there is no such churn.
    """
    times = events["event_time"].to_numpy(dtype=np.float64)
    data = data_end(events)
    end = observed_until(data.moment, dates_only=dated_by_day(times[times <= data.bound]))
    rows = label(events, [cutoff for cutoff in cutoffs if cutoff + 2 * policy.horizon_s <= end], policy)
    gone = rows[rows["churned"] == 1]
    if gone.empty:
        return None
    last = events.groupby("advertiser_id")["event_time"].max()
    return float((last.loc[gone["advertiser_id"]].to_numpy() >= gone["as_of"] + policy.horizon_s).mean())


def cautions(
    events: pd.DataFrame, cutoffs: Sequence[float], policy: LabelPolicy, found: Evaluation
) -> list[str]:
    """All that applies, a sentence each.

    Args:
        events: Columns of `features.event_table.SCHEMA`.
        cutoffs: Those tested on, seconds since the epoch.
        policy: The windows.
        found: What came of the test.
    """
    warnings = [*ahead(events), *holes(events, policy)]
    share = returned(events, cutoffs, policy)
    if share is not None and share > MANY_RETURN:
        warnings.append(
            f"{share:.0%} of those counted as churned came back later, so {policy.horizon_days} days are shorter than "
            f"usual pauses here (half the advertisers have {_usual_gap(events):.0f} days or more between events); "
            f"a longer --horizon-days and --active-days asks for those who leave for good"
        )
    currencies = sorted(name for name in events["currency"].unique() if name)
    if len(currencies) > 1:
        warnings.append(
            f"amounts are in {', '.join(currencies[:5])} and are added up as they are; convert them to one currency"
        )
    for name, scores in (("recency alone", found.baseline), ("a plain logistic regression", found.logistic)):
        if round(scores.auc, 3) > round(found.model.auc, 3):
            warnings.append(
                f"{name} ranks better here: AUC {scores.auc:.3f} against {found.model.auc:.3f}; with more activity "
                f"to learn from the model may gain on it"
            )
    return warnings


def _usual_gap(events: pd.DataFrame) -> float:
    """The median over advertisers of their mean days between events."""
    spans = events.groupby("advertiser_id")["event_time"].agg(["min", "max", "nunique"])
    several = spans[spans["nunique"] > 1]
    return float(((several["max"] - several["min"]) / (several["nunique"] - 1)).median() / DAY_S)


def _day(moment: float) -> str:
    return f"{to_datetime(moment):%Y-%m-%d}"
