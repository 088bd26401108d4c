from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.dataset.split import TooLittleDataError
from models.evaluation.evaluation import EvaluationPolicy
from models.training.plain_table import TablePolicy, evaluate_table, read_table
from tocsin.errors import UnreadableFileError

POLICY = TablePolicy(evaluation=EvaluationPolicy(resamples=20))


def _frame(rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    tenure, plan = rng.integers(0, 60, rows), rng.choice(["basic", "gold"], rows)
    odds = 1.5 - tenure / 12 + np.where(plan == "basic", 1.0, -1.0)
    churned = rng.uniform(size=rows) < 1 / (1 + np.exp(-odds))
    total = [" " if number % 50 == 0 else str(float(number)) for number in range(rows)]
    return pd.DataFrame(
        {
            "id": [f"id-{number}" for number in range(rows)],
            "tenure": tenure,
            "plan": plan,
            "total": total,
            "Churn": np.where(churned, "Yes", "No"),
        }
    )


def _written(frame: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    return path


def test_names_are_left_out_and_numbers_with_gaps_are_numbers(tmp_path: Path) -> None:
    frame, churned, dropped = read_table(_written(_frame(), tmp_path), "Churn")
    assert dropped == ["id"]
    assert list(frame.columns) == ["tenure", "plan", "total"]
    assert frame["total"].dtype == np.float64
    assert frame["total"].isna().sum() == 8
    assert set(churned) == {0.0, 1.0}


def test_a_table_is_judged_the_same_twice(tmp_path: Path) -> None:
    read = read_table(_written(_frame(), tmp_path), "Churn")
    first, second = evaluate_table(*read, POLICY), evaluate_table(*read, POLICY)
    assert first.evaluation == second.evaluation
    assert first.certificates == second.certificates
    assert first.evaluation.rows == 120
    assert first.evaluation.model.auc > 0.75
    assert [finding.passed for finding in first.findings] == [True]
    assert sum(part.rows for part in first.labels.values()) == 400
    assert [part.by for part in first.evaluation.segments] == ["tenure"] * 3


def test_semicolons_and_infinite_numbers_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    _frame().assign(ratio=np.inf).to_csv(path, index=False, sep=";")
    frame, _, _ = read_table(path, "Churn")
    assert list(frame.columns) == ["tenure", "plan", "total", "ratio"]
    assert frame["ratio"].isna().all()


@pytest.mark.parametrize("answer", [{"No": 0, "Yes": 1}, {"No": "open", "Yes": "closed"}])
def test_a_column_that_knows_the_answer_is_named(tmp_path: Path, answer: dict[str, object]) -> None:
    told = _frame()
    told["closed"] = told["Churn"].map(answer)
    (finding,) = evaluate_table(*read_table(_written(told, tmp_path), "Churn"), POLICY).findings
    assert not finding.passed
    assert "(closed alone would do)" in finding.text


def test_a_table_of_names_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"no column besides Churn .* id only names them"):
        read_table(_written(_frame()[["id", "Churn"]], tmp_path), "Churn")


def test_what_is_no_such_table_is_refused(tmp_path: Path) -> None:
    path = _written(_frame(), tmp_path)
    with pytest.raises(UnreadableFileError, match="has no column Left; its columns are id, tenure"):
        read_table(path, "Left")
    with pytest.raises(UnreadableFileError, match="plan holds 'basic', 'gold'"):
        read_table(path, "plan")
    with pytest.raises(UnreadableFileError, match="does not exist"):
        read_table(tmp_path / "none.csv", "Churn")


def test_too_few_rows_or_one_class_are_refused_with_the_counts(tmp_path: Path) -> None:
    frame, churned, dropped = read_table(_written(_frame(100), tmp_path), "Churn")
    with pytest.raises(
        TooLittleDataError, match=r"^100 rows, \d+ churned; 200 rows and 10 of each outcome are needed"
    ):
        evaluate_table(frame, churned, dropped, POLICY)
    frame, churned, dropped = read_table(_written(_frame(), tmp_path), "Churn")
    with pytest.raises(TooLittleDataError, match="400 rows, 0 churned"):
        evaluate_table(frame, np.zeros_like(churned), dropped, POLICY)


def test_a_table_may_be_compressed_a_folder_or_written_with_decimal_commas(tmp_path: Path) -> None:
    frame = _frame().assign(paid=[f"1.{number:03d},50" for number in range(400)], gone=["$1,200.50"] * 400)
    frame.to_csv(tmp_path / "table.csv.gz", index=False, sep=";", encoding="utf-16")
    (tmp_path / "parts" / "year=2019").mkdir(parents=True)
    frame.to_parquet(tmp_path / "parts" / "year=2019" / "a.parquet")
    for where in (tmp_path / "table.csv.gz", tmp_path / "parts"):
        read, churned, _ = read_table(where, "Churn")
        assert read["paid"].tolist() == [1000.5 + number for number in range(400)]
        assert set(read["gone"]) == {1200.5}
        assert len(churned) == 400
        assert read["tenure"].dtype == np.float64


def test_a_label_that_is_blank_is_refused_by_its_row(tmp_path: Path) -> None:
    frame = _frame()
    frame.loc[[6, 9], "Churn"] = None
    with pytest.raises(UnreadableFileError, match="Churn is blank in 2 of 400 rows, the first is row 7"):
        read_table(_written(frame, tmp_path), "Churn")


def test_columns_of_lists_dates_and_booleans_are_no_obstacle(tmp_path: Path) -> None:
    frame = _frame().assign(tags=pd.Series([["a"]] * 400), since=pd.Timestamp("2020-01-01"), vip=True)
    frame.to_parquet(tmp_path / "table.parquet")
    read, _, _ = read_table(tmp_path / "table.parquet", "Churn")
    assert {"tenure", "plan", "tags", "vip"} <= set(read.columns)
