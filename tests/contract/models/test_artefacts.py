"""One suite for every place the registry may keep its files."""

from __future__ import annotations

import os
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from models.registry import artefacts
from models.registry.artefacts import ArtefactStore, LocalFolder, ObjectStore, open_store
from tocsin.errors import ConfigurationError, ConflictError, ModelUnavailableError

FILES = {"model.skops": b"\x00model", "metadata.json": b"{}"}


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtefactStore:
    if request.param == "folder":
        return LocalFolder(tmp_path / "models" / "churn")
    return ObjectStore(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "bucket/models/churn")


def test_nothing_is_there_at_first(store: ArtefactStore) -> None:
    assert store.folders() == []
    assert store.entries() == []
    assert store.last() is None
    assert store.read("a/model.skops") is None
    store.remove("a")


def test_a_folder_is_read_as_it_was_written(store: ArtefactStore) -> None:
    store.write_folder("b", FILES)
    store.write_folder("a", {"model.skops": b"1"})
    assert store.folders() == ["a", "b"]
    assert store.read("b/model.skops") == FILES["model.skops"]
    assert store.read("b/other") is None


def test_a_folder_is_never_changed(store: ArtefactStore) -> None:
    store.write_folder("a", FILES)
    store.write_folder("a", {"model.skops": b"other"})
    assert store.read("a/model.skops") == FILES["model.skops"]


def test_a_removed_folder_is_gone(store: ArtefactStore) -> None:
    store.write_folder("a", FILES)
    store.write_folder("b", FILES)
    store.remove("a")
    assert store.folders() == ["b"]
    assert store.read("a/model.skops") is None


def test_entries_come_in_order_and_from_any_place(store: ArtefactStore) -> None:
    for number in range(12):
        assert store.append(f"entry {number}".encode(), after=number)
    assert store.entries() == [f"entry {number}".encode() for number in range(12)]
    assert store.last() == store.last(10) == (12, b"entry 11")
    assert store.last(12) is store.last(12) is None


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_entry_goes_only_on_top_of_what_its_writer_saw(store: ArtefactStore, after: int) -> None:
    assert store.append(b"1", after=0)
    assert store.append(b"2", after=1)
    assert not store.append(b"x", after=after)
    assert store.entries() == [b"1", b"2"]


def test_of_many_writers_at_once_none_is_lost_and_none_overwrites_another(store: ArtefactStore) -> None:
    def write(writer: int) -> None:
        for number in range(5):
            while not store.append(f"{writer} {number}".encode(), after=len(store.entries())):
                pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    found = [entry.decode() for entry in store.entries()]
    assert sorted(found) == [f"{writer} {number}" for writer in range(4) for number in range(5)]
    for writer in range(4):
        mine = [entry for entry in found if entry.startswith(f"{writer} ")]
        assert mine == sorted(mine)


def test_a_journal_that_was_replaced_is_told_from_its_end(tmp_path: Path) -> None:
    store, path = LocalFolder(tmp_path), tmp_path / "journal.jsonl"
    path.write_bytes(b"1\n2\n3\n")
    assert store.last() == (3, b"3")
    path.unlink()
    assert store.last(3) is None
    path.write_bytes(b"1\n2\n")
    assert store.last(3) == (2, b"2")
    assert store.last(2) is None
    assert not store.append(b"4", after=3)
    assert store.append(b"3", after=2)


class TestObjects:
    @pytest.fixture
    def objects(self, tmp_path: Path) -> ObjectStore:
        return ObjectStore(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "churn")

    def test_a_folder_without_its_mark_is_not_there(self, objects: ObjectStore) -> None:
        objects._write("half/model.skops", b"1")
        assert objects.folders() == []
        objects.write_folder("half", FILES)
        assert objects.folders() == ["half"]

    def test_another_writers_claim_is_waited_for_and_then_told(
        self, objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(artefacts, "CLAIM_TRIES", 3)
        monkeypatch.setattr(artefacts, "CLAIM_WAIT_S", 0.0)
        objects._write("claims/other", b"")
        with pytest.raises(ConflictError, match="3 tries"):
            objects.append(b"1", after=0)
        assert [path.name for path in (tmp_path / "churn" / "claims").iterdir()] == ["other"]
        assert objects.entries() == []

    def test_the_claim_of_a_writer_that_died_does_not_count(
        self, objects: ObjectStore, tmp_path: Path
    ) -> None:
        objects._write("claims/dead", b"")
        os.utime(tmp_path / "churn" / "claims" / "dead", (1.0, 1.0))
        assert objects.append(b"1", after=0)

    def test_a_clock_that_is_wrong_takes_no_living_writer_for_dead(
        self, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(artefacts, "CLAIM_TRIES", 2)
        objects._write("claims/other", b"")
        ahead = time.time() + 3_600.0
        monkeypatch.setattr("time.time", lambda: ahead)
        with pytest.raises(ConflictError, match="2 tries"):
            objects.append(b"1", after=0)

    def test_a_writer_that_was_held_up_gives_up(
        self, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stopwatch = count(0.0, 20.0)
        monkeypatch.setattr("time.monotonic", lambda: next(stopwatch) * 2)
        with pytest.raises(ConflictError, match="too slow"):
            objects.append(b"1", after=0)
        assert objects.entries() == []


def test_the_claims_keep_two_writers_apart_wherever_the_first_is_held_up(tmp_path: Path) -> None:
    """The second writer comes at each step of the first; there is never more than one entry 1."""
    for held_at in range(6):
        first = _Halting(fs.SubTreeFileSystem(str(tmp_path / str(held_at)), fs.LocalFileSystem()), "churn")
        (tmp_path / str(held_at)).mkdir()
        second = ObjectStore(
            fs.SubTreeFileSystem(str(tmp_path / str(held_at)), fs.LocalFileSystem()), "churn"
        )
        outcome: list[bool] = []

        def other(second: ObjectStore = second, outcome: list[bool] = outcome) -> None:
            try:
                outcome.append(second.append(b"second", after=0))
            except ConflictError:
                outcome.append(False)

        first.halt(held_at, other)
        outcome.append(first.append(b"first", after=0))
        assert outcome.count(True) == 1, held_at
        assert len(second.entries()) == 1


class _Halting(ObjectStore):
    """Lets something else happen before its n-th step."""

    def halt(self, step: int, happens: Any) -> None:
        self._left, self._happens = step, happens

    def read(self, path: str) -> bytes | None:
        self._step()
        return super().read(path)

    def _claims(self) -> list[str]:
        self._step()
        return super()._claims()

    def _write(self, path: str, content: bytes) -> None:
        self._step()
        super()._write(path, content)

    def _step(self) -> None:
        self._left -= 1
        if self._left == -1:
            self._happens()


def test_a_location_is_a_folder_or_a_uri(tmp_path: Path) -> None:
    assert isinstance(open_store(tmp_path, "churn"), LocalFolder)
    assert isinstance(open_store(f"file://{tmp_path}", "churn"), LocalFolder)
    assert isinstance(open_store("s3://bucket/models?region=eu-west-1", "churn"), ObjectStore)


@pytest.mark.parametrize(
    "location",
    ["gopher://key:hunter2@somewhere", "s3://key:hunter2@bucket/x?foo=1", "s3://", "s3://k y:hunter2@b"],
)
def test_a_location_that_is_none_is_refused_without_its_credentials(location: str) -> None:
    with pytest.raises(ConfigurationError, match=r"TOCSIN_MODELS_URL: .* is no place for models") as caught:
        open_store(location, "churn")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_store_that_does_not_answer_is_an_error_of_ours() -> None:
    class Away:
        def __getattr__(self, name: str) -> Any:
            raise OSError("AWS Error NETWORK_CONNECTION")

    store = ObjectStore(Away(), "bucket/churn", "s3://***@bucket")
    for step in (
        lambda: store.read("x"),
        lambda: store.write_folder("x", FILES),
        store.folders,
        lambda: store.remove("x"),
        store.entries,
        lambda: store.append(b"1", after=0),
    ):
        with pytest.raises(ModelUnavailableError, match=r"at s3://\*\*\*@bucket does not answer: AWS"):
            step()
