from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.models import duration_s, percentages
from launch import archive_jobs
from launch.training import _put_forward
from models.evaluation.leakage import train_serve_skew
from models.registry.registry import Registry
from models.training.card import TrainedModel
from tocsin.errors import ConflictError, InvalidRecordError, NotFoundError, StorageUnavailableError


@pytest.fixture
def stored(trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Two versions, the first of them champion."""
    monkeypatch.setenv("TOCSIN_DATA_DIR", str(tmp_path))
    registry = Registry(tmp_path / "models", actor="ada")
    registry.promote(registry.save(trained), reason="the first")
    later = msgspec.structs.replace(trained.card, created_at=trained.card.created_at + timedelta(hours=1))
    registry.save(TrainedModel(trained.estimator, later))
    monkeypatch.setattr(archive_jobs, "served_skew", lambda _settings, names: train_serve_skew(9, {}, names))
    return registry


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["models", *arguments], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def read(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def test_a_list_names_every_part(stored: Registry) -> None:
    lineup = stored.head().lineup
    shown = run("list")
    assert shown.index(lineup.challenger) < shown.index(lineup.champion)
    assert "champion" in shown
    assert f"{lineup.champion} serves" in shown
    assert [row["part"] for row in read("list")["models"]] == ["challenger", "champion"]


def test_a_version_is_shown_with_its_history(stored: Registry) -> None:
    assert "the first" in run("show")
    found = read("show", "champion")
    assert found["metadata"]["version"] == stored.champion()
    assert [entry["action"] for entry in found["history"]] == ["register", "promote"]


def test_a_damaged_version_does_not_hide_the_others(stored: Registry, tmp_path: Path) -> None:
    challenger = stored.head().lineup.challenger
    (tmp_path / "models" / "churn" / challenger / "metadata.json").write_bytes(b"{")
    assert "not readable" in run("list")
    first, second = read("list")["models"]
    assert (first["version"], second["part"]) == (challenger, "champion")
    assert "is not readable" in first["problem"]


def test_a_version_nobody_stored_is_not_found(stored: Registry) -> None:
    for command in ("show", "promote", "rollback", "compare"):
        with pytest.raises(NotFoundError, match="no churn model 'nope'"):
            run(command, "nope")


def test_two_versions_stand_side_by_side(stored: Registry) -> None:
    assert "auc" in run("compare")
    assert set(read("compare")) == set(stored.versions())


def test_a_rollout_begins_in_shadow_and_is_ended_by_hand(stored: Registry) -> None:
    challenger = stored.head().lineup.challenger
    entry = read("promote", "--shares", "1,10", "--shadow", "5m", "--reason", "spring")
    assert (entry["version"], entry["lineup"]["stage"], entry["reason"]) == (challenger, "shadow", "spring")
    assert entry["lineup"]["policy"]["shares"] == [0.01, 0.1]
    assert entry["lineup"]["policy"]["shadow_s"] == 300.0
    assert "in shadow" in run("list")
    with pytest.raises(ConflictError, match="being tried"):
        run("promote", challenger)
    assert "was rolled back" in run("rollback", "--reason", "enough")
    assert stored.head().lineup.challenger == ""


def test_a_store_that_serves_other_values_than_training_saw_stops_a_promotion(
    stored: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        archive_jobs, "served_skew", lambda _settings, names: train_serve_skew(9, {names[0]: 1}, names)
    )
    for how in ([], ["--now"]):
        with pytest.raises(ConflictError, match="9 served vectors replayed; values differ"):
            run("promote", *how)
    assert stored.head().lineup.stage == "idle"


def test_without_the_storage_a_promotion_wants_to_be_told_so(
    stored: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("TOCSIN_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TOCSIN_REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(StorageUnavailableError, match="cannot be replayed") as refusal:
        run("promote")
    assert "--no-skew-check" in refusal.value.hint
    assert stored.head().lineup.stage == "idle"
    assert read("promote", "--no-skew-check")["lineup"]["stage"] == "shadow"


def test_now_means_now_and_can_be_taken_back(stored: Registry) -> None:
    lineup = stored.head().lineup
    assert "watched against" in run("promote", "--now", "--watch", "2d")
    assert stored.head().lineup.policy.watch_s == 2 * 86_400.0
    assert stored.champion() == lineup.challenger
    with pytest.raises(ConflictError, match=f"not {lineup.champion}"):
        run("rollback", "previous")
    run("rollback", "champion")
    assert stored.champion() == lineup.champion
    with pytest.raises(ConflictError, match="no previous champion"):
        run("rollback")


def test_a_new_model_is_tried_beside_the_champion_where_one_can_serve(
    stored: Registry, tmp_path: Path
) -> None:
    champion, challenger = stored.champion(), stored.head().lineup.challenger
    assert _put_forward(stored, challenger, "better", []) == ("shadow", "better")
    assert (stored.champion(), stored.journal()[-1].reason) == (champion, "better")
    stored.roll_back()
    (tmp_path / "models" / "churn" / str(champion) / "model.skops").write_bytes(b"damaged")
    assert _put_forward(stored, challenger, "better", []) == ("idle", "better")
    assert stored.champion() == challenger


def test_the_audit_tells_who_and_what_served_when(stored: Registry) -> None:
    assert "ada" in run("audit")
    assert len(read("audit", "--limit", "2")["entries"]) == 2
    assert read("audit", "--at", "0s")["lineup"]["champion"] == stored.champion()
    assert "serves" in run("audit", "--at", "0s")
    with pytest.raises(NotFoundError, match="nothing served then"):
        run("audit", "--at", "1d")


def test_an_empty_registry_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_DATA_DIR", str(tmp_path))
    assert "tocsin train" in run("list")
    with pytest.raises(NotFoundError, match="there is no champion"):
        run("show")


@pytest.mark.parametrize("text", ["", "0,5", "5,100", "50,5", "5,5", "x"])
def test_steps_that_do_not_rise_are_refused(text: str) -> None:
    with pytest.raises(InvalidRecordError, match="no steps"):
        percentages(text)


@pytest.mark.parametrize("text", ["", "5", "h", "-5m", "1.5h", "400d", "9999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidRecordError, match=r"duration|too long"):
        duration_s(text)
    assert [duration_s(good) for good in ("90s", "30m", "6h", "2d")] == [90.0, 1800.0, 21_600.0, 172_800.0]
