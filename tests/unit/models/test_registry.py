from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import skops.io
from sklearn.naive_bayes import GaussianNB

from models.card import ModelCard, TrainedModel
from models.labels import LabelPolicy
from models.registry import KEEP_VERSIONS, Metadata, Registry
from models.training import CANDIDATES, fit, labelled_set
from tocsin.errors import ModelUnavailableError, NotFoundError


class Foreign(GaussianNB):  # type: ignore[misc]
    """A type the registry has never heard of."""


def _dated(trained: TrainedModel, minutes: int) -> TrainedModel:
    moment = trained.card.created_at + timedelta(minutes=minutes)
    return replace(trained, card=msgspec.structs.replace(trained.card, created_at=moment))


def _rewrite(tmp_path: Path, version: str, **changed: Any) -> None:
    path = tmp_path / "churn" / version / "metadata.json"
    metadata = msgspec.json.decode(path.read_bytes(), type=Metadata)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(metadata, **changed)))


def _refusal(registry: Registry, version: str | None = None) -> ModelUnavailableError:
    with pytest.raises(ModelUnavailableError) as caught:
        registry.load(version)
    assert "run `tocsin train`" in caught.value.hint
    return caught.value


def test_a_saved_model_predicts_as_it_did(registry: Registry, trained: TrainedModel) -> None:
    version = registry.save(trained)
    loaded = registry.load(version)
    assert version.startswith("20261124T070501Z-")
    assert loaded.version == version
    assert loaded.card == trained.card
    assert loaded.predict([trained.card.typical])[0] == pytest.approx(
        type(loaded)(trained.estimator, trained.card, "").predict([trained.card.typical])[0]
    )


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_every_candidate_is_made_of_trusted_types(
    candidate: str, registry: Registry, trained: TrainedModel, events: Any
) -> None:
    cutoffs = [moment.timestamp() for moment in trained.card.training_cutoffs]
    rows = labelled_set(events, cutoffs, LabelPolicy())
    estimator = fit(CANDIDATES[candidate](1), rows)
    version = registry.save(replace(trained, estimator=estimator))
    assert len(registry.load(version).predict([{}])) == 1


def test_an_empty_registry_says_what_to_do(registry: Registry) -> None:
    assert registry.versions() == []
    assert registry.champion() is None
    assert _refusal(registry).message == "there is no model yet"


def test_saving_does_not_promote(registry: Registry, trained: TrainedModel) -> None:
    version = registry.save(trained)
    with pytest.raises(ModelUnavailableError, match=r"^no model is promoted \(1 stored\)$") as caught:
        registry.load()
    assert caught.value.hint == f"promote one; the newest is {version}"


def test_the_champion_is_what_loads(registry: Registry, trained: TrainedModel) -> None:
    first, second = registry.save(trained), registry.save(_dated(trained, 1))
    assert registry.versions() == [first, second]
    registry.promote(first)
    assert registry.load().version == first
    registry.promote(second)
    assert registry.load().version == registry.champion() == second


def test_only_a_stored_version_is_promoted(registry: Registry, trained: TrainedModel) -> None:
    version = registry.save(trained)
    for wrong in ("20200101T000000Z-000000", "../etc", ""):
        with pytest.raises(NotFoundError) as caught:
            registry.promote(wrong)
        assert caught.value.hint == f"stored: {version}"


def test_promote_is_all_or_nothing(
    registry: Registry, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = registry.save(trained), registry.save(_dated(trained, 1))
    registry.promote(first)

    def fails(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="no space left"):
        registry.promote(second)
    assert registry.champion() == first


def test_a_save_that_fails_leaves_nothing(
    registry: Registry, trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("skops.io.dump", fails)
    with pytest.raises(OSError, match="no space left"):
        registry.save(trained)
    assert list((tmp_path / "churn").iterdir()) == []


def test_a_tampered_model_is_refused(registry: Registry, trained: TrainedModel, tmp_path: Path) -> None:
    version = registry.save(trained)
    path = tmp_path / "churn" / version / "model.skops"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "is damaged: its checksum is not the one in metadata.json" in _refusal(registry, version).message


@pytest.mark.parametrize("content", [b"not a zip", b""])
def test_a_file_that_is_no_model_is_refused(
    content: bytes, registry: Registry, trained: TrainedModel, tmp_path: Path
) -> None:
    version = registry.save(trained)
    (tmp_path / "churn" / version / "model.skops").write_bytes(content)
    _rewrite(tmp_path, version, model_sha256=hashlib.sha256(content).hexdigest())
    assert _refusal(registry, version).message == f"model.skops of churn model {version} is no skops file"


def test_a_foreign_type_is_refused(registry: Registry, trained: TrainedModel, tmp_path: Path) -> None:
    version = registry.save(trained)
    content = skops.io.dumps(Foreign())
    (tmp_path / "churn" / version / "model.skops").write_bytes(content)
    _rewrite(tmp_path, version, model_sha256=hashlib.sha256(content).hexdigest())
    message = _refusal(registry, version).message
    assert message.startswith(f"churn model {version} holds types that are not trusted: ")
    assert message.endswith("Foreign")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: {"feature_view_version": 99}, "was trained on 15 features of advertiser_activity v99"),
        (lambda card: {"feature_names": card.feature_names[1:]}, "in one only: days_since_last_campaign"),
        (lambda card: {"feature_names": card.feature_names[::-1]}, "was trained on 15 features"),
        (lambda _: {"sklearn_version": "0.1.2"}, "was trained with scikit-learn 0.1.2"),
    ],
)
def test_a_model_for_other_features_is_refused(
    change: Callable[[ModelCard], dict[str, Any]],
    said: str,
    registry: Registry,
    trained: TrainedModel,
    tmp_path: Path,
) -> None:
    version = registry.save(trained)
    _rewrite(tmp_path, version, card=msgspec.structs.replace(trained.card, **change(trained.card)))
    assert said in _refusal(registry, version).message


def test_metadata_that_cannot_be_read_is_refused(
    registry: Registry, trained: TrainedModel, tmp_path: Path
) -> None:
    version = registry.save(trained)
    _rewrite(tmp_path, version, schema_version=2)
    assert "schema 2, this release reads 1" in _refusal(registry, version).message
    (tmp_path / "churn" / version / "metadata.json").write_text("{")
    assert "is not readable" in _refusal(registry, version).message
    (tmp_path / "churn" / version / "metadata.json").unlink()
    assert _refusal(registry, version).message == f"churn model {version} is not stored"
    assert _refusal(registry, "../../etc").message == "'../../etc' is no model version"


def test_retention_keeps_the_newest_and_the_champion(
    registry: Registry, trained: TrainedModel, tmp_path: Path
) -> None:
    saved = [registry.save(trained)]
    registry.promote(saved[0])
    saved += [registry.save(_dated(trained, minute)) for minute in range(1, KEEP_VERSIONS + 4)]
    assert registry.versions() == [saved[0], *saved[-KEEP_VERSIONS:]]
    assert registry.load().version == saved[0]
    assert len(list((tmp_path / "churn").iterdir())) == KEEP_VERSIONS + 2


def test_what_a_killed_process_left_is_swept(
    registry: Registry, trained: TrainedModel, tmp_path: Path
) -> None:
    abandoned = tmp_path / "churn" / ".tmp-abandoned"
    abandoned.mkdir(parents=True)
    long_after = datetime.now(UTC) + timedelta(days=2)
    registry.save(replace(trained, card=msgspec.structs.replace(trained.card, created_at=long_after)))
    assert not abandoned.exists()
