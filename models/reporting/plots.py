"""The report's pictures as inline SVG: the same rows give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import matplotlib as mpl
import matplotlib.dates
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from models.evaluation.certification import Certificate
from models.evaluation.evaluation import Evaluation, Judged
from models.evaluation.measures import Floats, Ranked

MODEL, RECENCY, LOGISTIC, MUTED, CHURN, STAYS = (
    "#1f4e8c",
    "#b5541c",
    "#5b8c3a",
    "#8a8f98",
    "#b3382c",
    "#2f7d5b",
)
_STYLE: Any = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5c626b",
    "axes.labelcolor": "#2b2f36",
    "axes.titleweight": "bold",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "tocsin",
}


def drawn(draw: Callable[[Any], None], width: float = 4.6, height: float = 3.4) -> str:
    """What `draw` paints on its axes, as an `<svg>` element."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :]


def reliability(evaluation: Evaluation) -> str:
    """Predicted against observed, a point a bin, its area the number of rows."""

    def draw(axes: Any) -> None:
        bins = [found for found in evaluation.calibration if found.rows]
        most = max(found.rows for found in bins)
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1)
        axes.plot(
            [found.predicted for found in bins],
            [found.observed for found in bins],
            color=MODEL,
            linewidth=1,
            alpha=0.6,
        )
        axes.scatter(
            [found.predicted for found in bins],
            [found.observed for found in bins],
            s=[18 + 340 * found.rows / most for found in bins],
            color=MODEL,
            alpha=0.65,
            linewidth=0,
        )
        axes.set(
            title="Reliability: do 30% mean three in ten?",
            xlabel="predicted probability",
            ylabel="share that churned",
            xlim=(-0.03, 1.03),
            ylim=(-0.03, 1.06),
        )

    return drawn(draw)


def gains(judged: Judged, evaluation: Evaluation, *, recency: bool) -> str:
    """How many of those who churn are found among the riskiest: the lift is the curve over the diagonal."""

    def draw(axes: Any) -> None:
        shares = np.linspace(0.0, 1.0, 201)
        for name, colour, style, shown in (
            ("model", MODEL, "-", True),
            ("recency", RECENCY, "--", recency),
            ("logistic", LOGISTIC, "-.", True),
        ):
            if not shown:
                continue
            tally = Ranked(judged.churned, getattr(judged, name)).tally()
            axes.plot(
                shares,
                [tally.found(share) if share else 0.0 for share in shares],
                style,
                color=colour,
                label=name,
            )
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1)
        top = evaluation.model.lift_10 * 0.1
        axes.annotate(
            f"top 10%: {top:.0%} of all churn,\nlift {evaluation.model.lift_10:.1f}",
            (0.1, top),
            (0.24, max(0.05, top - 0.24)),
            arrowprops={"arrowstyle": "-", "color": MUTED},
            fontsize=8.5,
        )
        axes.plot([0.1], [top], "o", color=MODEL, markersize=4)
        axes.set(
            title="Lift: churn found among the riskiest",
            xlabel="share of advertisers, riskiest first",
            ylabel="share of all churn",
        )
        axes.legend(loc="lower right")

    return drawn(draw)


def precision_coverage(judged: Judged, certificates: list[Certificate], asked: float) -> str:
    """Precision of each side if it answered for more and more rows; where it is certified to stop is marked."""

    def draw(axes: Any) -> None:
        for side, colour in (("churn", CHURN), ("stays", STAYS)):
            coverage, precision = _curve(judged, churn=side == "churn")
            axes.plot(coverage, precision, color=colour, label=side)
        for certificate in certificates:
            if certificate.threshold is None:
                continue
            churn = certificate.decision == "churn"
            inside = judged.model >= certificate.threshold if churn else judged.model <= certificate.threshold
            if inside.any():
                right = judged.churned[inside].mean() if churn else 1.0 - judged.churned[inside].mean()
                axes.plot([inside.mean()], [right], "o", color=CHURN if churn else STAYS, markersize=7)
        axes.axhline(asked, color=MUTED, linestyle=":", linewidth=1)
        margin = axes.get_yaxis_transform()  # right of the axes, where no curve runs
        axes.text(1.01, asked, f"{asked:.0%}", transform=margin, va="center", color=MUTED, fontsize=8.5)
        axes.set(
            title="Precision and coverage on the test",
            xlabel="share of rows answered (dot: certified threshold)",
            ylabel="share of answers that were right",
            xlim=(0, 1.02),
            ylim=(0, 1.03),
        )
        axes.legend(loc="lower left")

    return drawn(draw)


def _curve(judged: Judged, *, churn: bool) -> tuple[Floats, Floats]:
    order = np.argsort(-judged.model if churn else judged.model, kind="stable")
    right = judged.churned[order] if churn else 1.0 - judged.churned[order]
    rows = np.arange(1, len(order) + 1)
    start = max(1, len(order) // 100)  # below one row in a hundred it only jumps
    kept = np.unique(np.linspace(start, len(order), 300).astype(np.int64)) - 1
    return rows[kept] / len(order), (np.cumsum(right) / rows)[kept]


def histogram(judged: Judged, certificates: list[Certificate]) -> str:
    """The scores of those who churned and of those who stayed, and the thresholds."""

    def draw(axes: Any) -> None:
        edges = np.linspace(0.0, 1.0, 31)
        stayed, churned = judged.model[judged.churned == 0], judged.model[judged.churned == 1]
        axes.hist(stayed, edges, color=STAYS, alpha=0.55, label=f"stayed ({len(stayed):,})")
        axes.hist(churned, edges, color=CHURN, alpha=0.6, label=f"churned ({len(churned):,})")
        for certificate in certificates:
            if certificate.threshold is not None:
                axes.axvline(
                    certificate.threshold,
                    color=CHURN if certificate.decision == "churn" else STAYS,
                    linewidth=1.3,
                )
        axes.set(title="Scores of the test rows", xlabel="predicted probability", ylabel="rows")
        axes.legend(loc="upper right")

    return drawn(draw)


def weeks(evaluation: Evaluation) -> str:
    """The level of each test week: predicted, and as it came."""

    def draw(axes: Any) -> None:
        days = [datetime.fromtimestamp(week.as_of, tz=UTC) for week in evaluation.weeks]
        axes.plot(
            days,
            [week.observed for week in evaluation.weeks],
            "o-",
            color=CHURN,
            markersize=4,
            label="churned",
        )
        axes.plot(
            days,
            [week.predicted for week in evaluation.weeks],
            "o--",
            color=MODEL,
            markersize=4,
            label="predicted",
        )
        axes.set(title="Level by week: what nobody could know in advance", ylabel="share", xlabel="cutoff")
        axes.set_ylim(bottom=0.0)
        axes.legend(loc="upper left")
        dates: Any = mpl.dates  # untyped upstream
        axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=7))
        axes.xaxis.set_major_formatter(dates.DateFormatter("%d %b %y"))

    return drawn(draw, width=9.4, height=2.6)
