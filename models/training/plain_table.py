"""A plain churn table without time, through the same evaluation: one row an account, a label column.

There is no calendar in such a table, so nothing is learned about the future and a random split has to do; recency is
not known, so the model is compared with the logistic baseline only. Fitting, calibration and certification are those of
the churn model, on accounts kept apart in the same way.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from features.importing.money import DecimalMark, decimal_mark, money
from features.importing.options import LOOK, ReadOptions
from features.importing.tables import TableFile, open_table, readable
from features.importing.text_files import open_text
from features.missing import stands_for_nothing
from models.dataset.labels import LabelCounts, count_labels
from models.dataset.matrix import Floats, calibrate
from models.dataset.split import TooLittleDataError
from models.evaluation.certification import (
    Certificate,
    CertificationPolicy,
    RowSample,
    certify,
    on_probabilities,
)
from models.evaluation.evaluation import Evaluation, EvaluationPolicy, Judged, Segmentation, confirm, evaluate
from models.evaluation.leakage import CEILING, Finding, ceiling
from models.evaluation.measures import auc
from models.training.calibration import calibrate_weeks
from models.training.candidates import choose, regression, trees
from tocsin.errors import InvalidRecordError, UnreadableFileError

TRUE = frozenset({"yes", "1", "1.0", "true", "churn", "churned"})
FALSE = frozenset({"no", "0", "0.0", "false", "stay", "stayed", "retained"})
MIN_ROWS = 200
MAX_CATEGORIES = 30
_NUMERIC_SHARE = 0.95  # of a column's filled cells, from which on it is a number with gaps
_IDENTIFIER_SHARE = (
    0.5  # of rows with a text of their own, from which on a column names rather than describes
)

_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class TablePolicy:
    """How a table is split. Shares are of rows; `random_state` is that of the split into train and test."""

    test_share: float = 0.3
    random_state: int = 42
    calibration_share: float = 0.25  # of the training rows
    folds: int = 5
    seed: int = 7
    certification: CertificationPolicy = field(default_factory=CertificationPolicy)
    evaluation: EvaluationPolicy = field(default_factory=EvaluationPolicy)


@dataclass(frozen=True, slots=True)
class TableResult:
    """What became of a table."""

    evaluation: Evaluation
    certificates: list[Certificate]
    judged: Judged
    algorithm: str
    selection: dict[str, float]  # mean AUC over the folds
    labels: dict[str, LabelCounts]
    dropped: list[str]  # columns that only name a row
    findings: list[Finding]


def read_table(
    path: str | os.PathLike[str], label: str, options: ReadOptions = LOOK
) -> tuple[pd.DataFrame, Floats, list[str]]:
    """The descriptive columns of a text or Parquet table, its label as 0 and 1, and the columns left out.

    Raises:
        UnreadableFileError: no such file or column, a label that is neither yes nor no, or no other column.
    """
    try:
        frame = _read(path, options)
    except (OSError, ValueError) as error:
        raise UnreadableFileError(f"{path} cannot be read as a table: {error}") from error
    if label not in frame.columns:
        raise UnreadableFileError(f"{path} has no column {label}; its columns are {', '.join(frame.columns)}")
    said = frame[label].astype(str).str.strip().str.lower()
    blank = np.flatnonzero([bool(pd.isna(text)) or stands_for_nothing(text) for text in said])
    if len(blank):
        raise UnreadableFileError(
            f"{label} is blank in {len(blank):,} of {len(frame):,} rows, the first is row {blank[0] + 1}",
            hint="drop the rows of which it is not known who left",
        )
    unknown = sorted(set(said.unique()) - TRUE - FALSE)
    if unknown:
        row = int(np.flatnonzero(said == unknown[0])[0]) + 1
        raise UnreadableFileError(
            f"{label} holds {', '.join(repr(value) for value in unknown[:3])}, the first in row {row}",
            hint="yes or no, 1 or 0, true or false",
        )
    columns: dict[str, Any] = {}
    dropped: list[str] = []
    for name in frame.columns.drop(label):
        column = frame[name]
        texts = column.astype(str)
        filled = column.notna() & (texts.str.strip() != "")
        numbers = pd.to_numeric(column, errors="coerce")
        if not pd.api.types.is_numeric_dtype(column) and numbers[filled].notna().mean() < _NUMERIC_SHARE:
            numbers = _written_numbers(column.where(filled), options)
        if numbers[filled].notna().mean() >= _NUMERIC_SHARE:
            columns[name] = numbers.astype(np.float64).replace([np.inf, -np.inf], np.nan)
        elif texts.nunique() > _IDENTIFIER_SHARE * len(frame):
            dropped.append(str(name))
        else:
            columns[name] = texts
    if not columns:
        raise UnreadableFileError(
            f"{path} has no column besides {label} that describes its {len(frame)} rows"
            + (f"; {', '.join(dropped)} only names them" if dropped else ""),
            hint="add columns with what is known of each account",
        )
    churned: Floats = said.isin(TRUE).to_numpy().astype(np.float64)
    return pd.DataFrame(columns), churned, dropped


def _written_numbers(column: pd.Series, options: ReadOptions) -> pd.Series:
    """The numbers of a column of texts such as `1.234,50` or `$12`; NaN where a cell is none. No letters."""
    texts = [cell if isinstance(cell, str) and not _LETTER.search(cell) else None for cell in column]
    mark = DecimalMark(options.decimal) if options.decimal else decimal_mark(texts, delimiter=",")

    def number(text: str | None) -> float:
        try:
            return math.nan if text is None else money(text, "", mark).amount
        except InvalidRecordError:
            return math.nan

    return pd.Series([number(text) for text in texts], index=column.index, dtype=np.float64)


def _read(path: str | os.PathLike[str], options: ReadOptions) -> pd.DataFrame:
    table = open_table(path, options)
    frames = []
    for part in table.parts:
        with readable(part.path):
            frames.append(_frame_of(part, options))
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]


def _frame_of(part: TableFile, options: ReadOptions) -> pd.DataFrame:
    repeated = sorted({name for name in part.columns if part.columns.count(name) > 1})
    if repeated:
        raise UnreadableFileError(
            f"{part.path} has more than one column {repeated[0]!r}", hint="rename or drop the other"
        )
    if part.text is None:
        frame = pd.read_parquet(part.path, partitioning=None)
    else:
        with open_text(part.path, part.text) as text:
            frame = pd.read_csv(
                text,
                sep=part.text.delimiter,
                decimal=options.decimal or ".",
                thousands={",": ".", ".": ","}.get(options.decimal),
                skiprows=int(part.text.told),
                index_col=False,
                skipinitialspace=True,
            )
        frame.columns = [str(name).strip() for name in frame.columns]
    return frame.assign(**{name: value for name, value in part.fixed.items() if name not in frame.columns})


def knowing(frame: pd.DataFrame, churned: Floats, limit: float = CEILING) -> list[str]:
    """The columns of which each alone ranks the accounts as well as `limit`, an AUC: they may know the answer."""
    found = []
    for name, column in frame.items():
        values = (
            column if column.dtype == np.float64 else column.map(pd.Series(churned).groupby(column).mean())
        )
        known: Floats = np.asarray(values.fillna(values.median()), dtype=np.float64)
        if abs(auc(churned, known) - 0.5) >= limit - 0.5:
            found.append(str(name))
    return found


def evaluate_table(
    frame: pd.DataFrame, churned: Floats, dropped: list[str], policy: TablePolicy | None = None
) -> TableResult:
    """Split, choose, fit, calibrate, certify, and measure once on the test rows.

    Args:
        frame: One row an account; numbers and texts.
        churned: 0 or 1, shape `(rows,)`.
        dropped: Columns left out, for the report.
        policy: Split and seeds.

    Raises:
        TooLittleDataError: fewer than 200 rows, or too few of one outcome for the folds.
    """
    policy = policy or TablePolicy()
    few = int(min(churned.sum(), len(churned) - churned.sum()))
    if len(churned) < MIN_ROWS or few < 2 * policy.folds:
        raise TooLittleDataError(
            f"{len(churned)} rows, {int(churned.sum())} churned; {MIN_ROWS} rows and {2 * policy.folds} of each "
            f"outcome are needed"
        )
    train, test = train_test_split(
        np.arange(len(churned)), test_size=policy.test_share, random_state=policy.random_state
    )
    fitting, calibrating = train_test_split(
        train, test_size=policy.calibration_share, random_state=policy.seed, stratify=churned[train]
    )
    models = _candidates(frame, policy.seed)
    selection, reference = _select(models, frame.iloc[fitting], churned[fitting], policy)
    winner = choose(selection)
    estimator = models[winner].fit(frame.iloc[fitting], churned[fitting])
    scores = _score(estimator, frame.iloc[calibrating])
    calibration = calibrate_weeks(scores, churned[calibrating], np.zeros(len(calibrating)))
    sample = RowSample.of_weeks(scores, churned[calibrating], calibrating, np.zeros(len(calibrating)))
    seen = reference[winner]
    middle = calibrate_weeks(seen.scores, seen.churned, np.zeros(len(seen.scores))).middle
    found = certify(seen, sample, (middle, calibration.middle), policy.certification)
    certificates = [on_probabilities(side, calibration.slope, calibration.intercept) for side in found]
    plain = _pipeline(frame, LogisticRegression(max_iter=1_000)).fit(frame.iloc[fitting], churned[fitting])
    judged = Judged(
        churned=churned[test],
        model=calibrate(_score(estimator, frame.iloc[test]), calibration.slope, calibration.intercept),
        recency=np.full(len(test), churned[fitting].mean()),
        logistic=_score(plain, frame.iloc[test]),
        advertisers=np.arange(len(test)),
        as_of=np.zeros(len(test)),
        segments=_segments(frame.iloc[test]),
    )
    certificates = confirm(judged, certificates, policy.certification)
    parts = {"fitting": fitting, "calibration": calibrating, "test": test}
    evaluation = evaluate(judged, certificates, policy.evaluation, policy.certification)
    return TableResult(
        evaluation=evaluation,
        certificates=certificates,
        judged=judged,
        algorithm=winner,
        selection=selection,
        labels={
            name: count_labels(churned[rows], np.zeros(len(rows)), rows.astype(np.int64))
            for name, rows in parts.items()
        },
        dropped=dropped,
        findings=[_ceiling(evaluation.model.auc, frame, churned)],
    )


def _ceiling(found: float, frame: pd.DataFrame, churned: Floats) -> Finding:
    names = knowing(frame, churned) if found >= CEILING else []
    alone = f" ({', '.join(names)} alone would do)" if names else ""
    return ceiling(
        found, judged_on="the accounts left out", doubt=f"who leaves is not that predictable{alone}"
    )


def _pipeline(frame: pd.DataFrame, classifier: Any) -> Pipeline:
    numbers = list(frame.select_dtypes("number").columns)
    texts = [name for name in frame.columns if name not in numbers]
    numeric = Pipeline(
        [("impute", SimpleImputer(strategy="median", keep_empty_features=True)), ("scale", StandardScaler())]
    )
    named = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=MAX_CATEGORIES, sparse_output=False
    )
    columns = ColumnTransformer([("numbers", numeric, numbers), ("texts", named, texts)])
    return Pipeline([("columns", columns), ("classify", classifier)])


def _candidates(frame: pd.DataFrame, seed: int) -> dict[str, Pipeline]:
    both = [("logistic", regression()), ("boosting", trees(seed))]
    return {
        "logistic": _pipeline(frame, regression()),
        "boosting": _pipeline(frame, trees(seed)),
        "blend": _pipeline(frame, VotingClassifier(both, voting="soft")),
    }


def _select(
    models: dict[str, Pipeline], frame: pd.DataFrame, churned: Floats, policy: TablePolicy
) -> tuple[dict[str, float], dict[str, RowSample]]:
    """Mean AUC over the folds, and each candidate's scores and outcomes on rows it had not seen."""
    folds = StratifiedKFold(policy.folds, shuffle=True, random_state=policy.seed)
    held_out: dict[str, list[tuple[Floats, Floats]]] = {name: [] for name in models}
    for earlier, later in folds.split(frame, churned):
        for name in ("logistic", "boosting"):
            fitted = models[name].fit(frame.iloc[earlier], churned[earlier])
            held_out[name].append((_score(fitted, frame.iloc[later]), churned[later]))
    both = zip(held_out["logistic"], held_out["boosting"], strict=True)
    held_out["blend"] = [((first + second) / 2.0, came) for (first, came), (second, _) in both]
    selection = {
        name: float(np.mean([auc(came, scores) for scores, came in parts]))
        for name, parts in held_out.items()
    }
    rows = np.arange(len(churned))
    joined = {
        name: RowSample.of_weeks(
            np.concatenate([s for s, _ in parts]),
            np.concatenate([c for _, c in parts]),
            rows,
            np.zeros(len(rows)),
        )
        for name, parts in held_out.items()
    }
    return selection, joined


def _score(estimator: Any, frame: pd.DataFrame) -> Floats:
    scores: Floats = estimator.predict_proba(frame)[:, 1]
    return scores


def _segments(frame: pd.DataFrame) -> dict[str, Segmentation]:
    """Thirds of the columns that show tenure and spend, by the column's name."""
    found = {}
    for name in frame.select_dtypes("number").columns:
        if name.lower() not in {"tenure", "monthlycharges", "spend", "amount"}:
            continue
        values = frame[name].fillna(0.0).to_numpy(dtype=np.float64)
        low, high = np.quantile(values, (1 / 3, 2 / 3))
        found[str(name)] = Segmentation(
            (f"up to {low:,.0f}", f"{low:,.0f} to {high:,.0f}", f"over {high:,.0f}"),
            np.digitize(values, (low, high), right=True).astype(np.int64),
        )
    return found
