"""The notebooks run from start to end, and are committed without outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from models.registry.model_files import Metadata
from models.registry.registry import Registry
from tests.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RETRAINING = ROOT / "notebooks" / "churn_retraining.ipynb"
EXPLORATION = ROOT / "notebooks" / "churn_exploration.ipynb"
REAL = ROOT.parent / "shared" / "data" / "google_ads_spend" / "advertiser_weekly_spend.parquet"
real = pytest.mark.skipif(not REAL.exists(), reason="../shared/data is not beside the project")


def opened(path: Path) -> Any:
    read: Any = nbformat.read  # untyped upstream
    return read(path, as_version=4)


def tagged(notebook: Any, tag: str) -> list[Any]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def names_set(source: str) -> set[str]:
    return {line.partition(" = ")[0] for line in source.splitlines()}


def execute(path: Path, parameters: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run with its parameters cell replaced, in a process that sees no setting of ours."""
    for name in [name for name in os.environ if name.startswith("TOCSIN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # more of them wait for each other where cores are shared
    notebook = opened(path)
    (cell,) = tagged(notebook, "parameters")
    assert names_set(cell.source) == parameters.keys()
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    resources = {"metadata": {"path": str(path.parent)}}
    return NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()


def retrain(models: Path, monkeypatch: pytest.MonkeyPatch, **changed: object) -> tuple[Any, Metadata]:
    parameters: dict[str, object] = {
        "activity_file": None,
        "columns": None,
        "train_until": None,
        "horizon_days": 28,
        "active_days": 28,
        "seed": 7,
        "models_dir": str(models),
        "report_file": None,
        "promote": False,
    }
    notebook = execute(RETRAINING, {**parameters, **changed}, monkeypatch)
    registry = Registry(models)
    return notebook, registry.metadata(registry.versions()[-1])


def images(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "stream"]  # warnings, stray prints
    return sum(bool({"image/png", "image/svg+xml"} & output.get("data", {}).keys()) for output in outputs)


def check(metadata: Metadata) -> None:
    card, evaluation = metadata.card, metadata.card.evaluation
    assert evaluation.rows > 1_000
    assert 0.05 < evaluation.base_rate < 0.5
    assert 0.75 < evaluation.model.auc < 0.95  # above it, the future has leaked into the features
    assert evaluation.beats_baseline
    assert evaluation.model.brier < evaluation.baseline.brier
    assert card.training_cutoffs[-1] < card.test_cutoffs[0]
    assert all(finding.passed for finding in card.findings)


@real
def test_real_activity_gives_a_challenger_and_promotes_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "report.html"
    notebook, metadata = retrain(
        tmp_path, monkeypatch, activity_file=str(REAL), train_until="2019-02-17", report_file=str(page)
    )
    check(metadata)
    assert images(notebook) == 3
    registry = Registry(tmp_path)
    assert registry.load(metadata.version).card == metadata.card
    assert metadata.card.test_cutoffs[0].isoformat().startswith("2019-02-17")
    assert registry.champion() is None
    assert page.read_text(encoding="utf-8").count("<svg") == 5


def test_simulated_activity_gives_a_model_that_is_promoted_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook, metadata = retrain(tmp_path, monkeypatch, promote=True)
    check(metadata)
    assert images(notebook) == 3
    assert Registry(tmp_path).champion() == metadata.version


def test_the_exploration_shows_its_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = execute(EXPLORATION, {"activity_file": None, "columns": None}, monkeypatch)
    assert images(notebook) == 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_bare(path: Path) -> None:
    notebook = opened(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert path.stat().st_size < 50_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_nothing_itself(path: Path) -> None:
    notebook = opened(path)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert not [
        line for source in sources for line in source.splitlines() if line.startswith(("def ", "class "))
    ]
