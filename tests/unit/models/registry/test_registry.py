from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import skops.io
from sklearn.naive_bayes import GaussianNB

from models.dataset.labels import LabelPolicy
from models.evaluation.leakage import Finding, train_serve_skew
from models.registry.journal import Action
from models.registry.lineup import RolloutStage
from models.registry.model_files import Metadata
from models.registry.registry import KEEP_VERSIONS, Registry
from models.training.card import ModelCard, TrainedModel
from models.training.training import CANDIDATES, fit, labelled_set
from tests.fakes import ManualClock
from tocsin.clock import to_datetime
from tocsin.errors import ConflictError, ModelUnavailableError, NotFoundError


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


def test_a_promotion_that_fails_changes_nothing(
    registry: Registry, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = registry.save(trained), registry.save(_dated(trained, 1))
    registry.promote(first)

    def fails(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(OSError, match="no space left"):
        registry.promote(second)
    monkeypatch.undo()
    registry.promote(second)
    assert registry.champion() == second


def test_a_save_that_fails_leaves_nothing(
    registry: Registry, trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(OSError, match="no space left"):
        registry.save(trained)
    assert list((tmp_path / "churn").iterdir()) == []


class TestJournal:
    def test_it_tells_what_served_when_and_who_changed_it(
        self, trained: TrainedModel, tmp_path: Path
    ) -> None:
        clock = ManualClock()
        registry = Registry(tmp_path, clock=clock, actor="ada")
        first, second = registry.save(trained), registry.save(_dated(trained, 1))
        clock.advance(10.0)
        registry.promote(first, reason="the first")
        clock.advance(10.0)
        registry.promote(second)
        clock.advance(10.0)
        back = registry.roll_back(reason="it was worse", story={"brier": 0.4})
        actions = [entry.action for entry in registry.journal()]
        assert actions == [
            Action.REGISTER,
            Action.REGISTER,
            Action.PROMOTE,
            Action.PROMOTE,
            Action.ROLL_BACK,
        ]
        assert [entry.number for entry in registry.journal()] == [1, 2, 3, 4, 5]
        moments = [to_datetime(clock.now() - ago) for ago in (29.0, 20.0, 15.0, 5.0, 0.0)]
        served = [entry.lineup.champion if (entry := registry.at(moment)) else None for moment in moments]
        assert served == ["", first, first, second, first]
        assert registry.at(to_datetime(clock.now() - 31.0)) is None
        assert (back.actor, back.version, back.reason) == ("ada", second, "it was worse")
        assert registry.journal()[-1] == back

    def test_a_line_cut_off_by_a_crash_was_never_written(
        self, registry: Registry, trained: TrainedModel, tmp_path: Path
    ) -> None:
        version = registry.save(trained)
        with (tmp_path / "churn" / "journal.jsonl").open("ab") as journal:
            journal.write(b'{"number": 2, "at": "2026')
        assert len(registry.journal()) == 1
        registry.promote(version)
        assert [entry.number for entry in Registry(tmp_path).journal()] == [1, 2]

    def test_a_line_that_cannot_be_read_is_an_error_not_an_empty_registry(
        self, registry: Registry, trained: TrainedModel, tmp_path: Path
    ) -> None:
        registry.save(trained)
        (tmp_path / "churn" / "journal.jsonl").write_bytes(b"{}\n")
        with pytest.raises(ModelUnavailableError, match="journal of the model registry is not readable"):
            Registry(tmp_path).champion()

    def test_a_damaged_line_is_named_and_what_serves_goes_on(
        self, registry: Registry, trained: TrainedModel, tmp_path: Path
    ) -> None:
        version, path = registry.save(trained), tmp_path / "churn" / "journal.jsonl"
        registry.promote(version)
        whole = path.read_bytes().splitlines(keepends=True)
        for lines, said in (
            (b"rubbish\n" + whole[1], "line 1: "),
            (whole[1], "line 1: it says it is entry 2"),
        ):
            path.write_bytes(lines)
            fresh = Registry(tmp_path)
            assert fresh.load().version == version
            with pytest.raises(ModelUnavailableError, match=f"is not readable: {said}"):
                fresh.journal()
        registry.save(_dated(trained, 1))  # and a new model can be stored

    def test_a_journal_restored_from_an_older_copy_is_followed(
        self, registry: Registry, trained: TrainedModel, tmp_path: Path
    ) -> None:
        path = tmp_path / "churn" / "journal.jsonl"
        first, second = registry.save(trained), registry.save(_dated(trained, 1))
        registry.promote(first)
        copy = path.read_bytes()
        registry.promote(second)
        assert registry.champion() == second
        path.write_bytes(copy)
        assert registry.champion() == first
        registry.promote(second)
        assert [entry.number for entry in registry.journal()] == [1, 2, 3, 4]

    def test_of_two_who_roll_back_at_once_only_one_does(
        self, registry: Registry, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        first, second, third = (registry.save(_dated(trained, minute)) for minute in range(3))
        registry.promote(first)
        registry.promote(second)
        registry.begin(third)
        append = registry._store.append

        def meanwhile(entry: bytes, *, after: int) -> bool:
            monkeypatch.undo()
            Registry(tmp_path, actor="guard").roll_back()
            return append(entry, after=after)

        monkeypatch.setattr(registry._store, "append", meanwhile)
        with pytest.raises(ConflictError, match=f"{second} that would be rolled back, not {third}"):
            registry.roll_back()
        assert registry.champion() == second
        with pytest.raises(ConflictError, match=f"not {third}"):
            registry.roll_back(third)

    def test_what_is_expected_is_against_the_champion_it_will_meet(
        self, registry: Registry, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        first, second, third = (registry.save(_dated(trained, minute)) for minute in range(3))
        registry.promote(first)
        asked, append = [], registry._store.append
        monkeypatch.setattr(registry, "_expected", lambda *names: asked.append(names))

        def meanwhile(entry: bytes, *, after: int) -> bool:
            monkeypatch.setattr(registry._store, "append", append)
            Registry(tmp_path).promote(second)
            return append(entry, after=after)

        monkeypatch.setattr(registry._store, "append", meanwhile)
        registry.begin(third)
        assert asked == [(third, first), (third, second)]

    def test_another_registry_sees_what_one_did(
        self, registry: Registry, trained: TrainedModel, tmp_path: Path
    ) -> None:
        other = Registry(tmp_path)
        version = registry.save(trained)
        assert other.head().lineup.challenger == version
        registry.promote(version)
        assert other.champion() == version

    def test_a_transition_on_an_old_state_is_refused(self, registry: Registry, trained: TrainedModel) -> None:
        first, second = registry.save(trained), registry.save(_dated(trained, 1))
        registry.promote(first)
        seen = registry.begin(second).number
        registry.advance(on=seen)
        with pytest.raises(ConflictError, match="something else happened meanwhile"):
            registry.roll_back(on=seen)
        assert registry.head().lineup.stage is RolloutStage.CANARY

    def test_of_many_who_promote_at_once_each_is_told_what_became_of_it(
        self, registry: Registry, trained: TrainedModel, tmp_path: Path
    ) -> None:
        champion = registry.save(trained)
        registry.promote(champion)
        rivals = [registry.save(_dated(trained, minute)) for minute in range(1, 9)]

        def begin(version: str) -> str:
            try:
                return Registry(tmp_path).begin(version).version
            except ConflictError:
                return ""

        with ThreadPoolExecutor(8) as pool:
            begun = [version for version in pool.map(begin, rivals) if version]
        assert len(begun) == 1
        assert registry.head().lineup.challenger == begun[0]
        assert registry.champion() == champion


def test_a_tampered_model_is_refused(registry: Registry, trained: TrainedModel, tmp_path: Path) -> None:
    version = registry.save(trained)
    path = tmp_path / "churn" / version / "model.skops"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "is damaged: its checksum is not the one in metadata.json" in _refusal(registry, version).message
    for put_before_people in (registry.begin, registry.promote):
        with pytest.raises(ModelUnavailableError, match="is damaged"):
            put_before_people(version)
    assert len(registry.journal()) == 1


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
    _rewrite(tmp_path, version, schema_version=1)
    assert "schema 1, this release reads 2" in _refusal(registry, version).message
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
    retired = [entry.version for entry in registry.journal() if entry.action is Action.RETIRE]
    assert retired == saved[1:4]


def test_what_ever_was_champion_is_kept(registry: Registry, trained: TrainedModel) -> None:
    saved = [registry.save(_dated(trained, minute)) for minute in range(3)]
    for version in saved:
        registry.promote(version)
    for minute in range(3, KEEP_VERSIONS + 4):
        registry.save(_dated(trained, minute))
    assert registry.versions()[:3] == saved


def test_a_model_whose_features_mean_something_else_is_refused(
    registry: Registry, trained: TrainedModel, tmp_path: Path
) -> None:
    version = registry.save(trained)
    _rewrite(tmp_path, version, feature_schema="0" * 16)
    assert "mean something else" in _refusal(registry, version).message


def test_what_the_leakage_gate_blocks_is_put_before_nobody(registry: Registry, trained: TrainedModel) -> None:
    leak = Finding(name="ceiling", passed=False, measured=0.99, limit=0.95, text="AUC 0.99 is too good")
    registry.promote(registry.save(trained))
    card = msgspec.structs.replace(trained.card, findings=[leak])
    version = registry.save(_dated(replace(trained, card=card), 1))
    for put in (registry.begin, registry.promote):
        with pytest.raises(ConflictError, match=r"the leakage gate blocks .*: AUC 0\.99 is too good"):
            put(version)


def test_what_was_found_at_the_gate_is_written_down_or_blocks(
    registry: Registry, trained: TrainedModel
) -> None:
    registry.promote(registry.save(trained))
    version = registry.save(_dated(trained, 1))
    skewed = train_serve_skew(40, {trained.card.feature_names[0]: 2}, trained.card.feature_names)
    for put in (registry.begin, registry.promote):
        with pytest.raises(ConflictError, match=r"40 served vectors replayed; values differ"):
            put(version, findings=[skewed])
    entry = registry.begin(version, findings=[train_serve_skew(40, {}, trained.card.feature_names)])
    assert "40 served vectors replayed" in entry.story["gate"]["train-serve-skew"]


def test_metadata_says_where_a_model_came_from(trained: TrainedModel, tmp_path: Path) -> None:
    registry = Registry(tmp_path, actor="notebook")
    found = registry.metadata(registry.save(trained))
    assert found.made_by == "notebook"
    assert found.code_revision
    assert found.card.training_cutoffs == trained.card.training_cutoffs


def test_what_a_killed_process_left_is_swept(
    registry: Registry, trained: TrainedModel, tmp_path: Path
) -> None:
    abandoned = tmp_path / "churn" / ".tmp-abandoned"
    abandoned.mkdir(parents=True)
    os.utime(abandoned, (1.0, 1.0))
    registry.save(trained)
    assert not abandoned.exists()
