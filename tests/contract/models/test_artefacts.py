"""One suite for every place the registry may keep its files."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import LocalStore, MemoryStore

from models.registry import object_store
from models.registry.artefacts import ArtefactStore, open_store
from models.registry.local_folder import LocalFolder
from models.registry.object_store import ObjectStore, connect
from tests.contract.models.s3_server import s3_server
from tocsin.errors import ConfigurationError, ModelUnavailableError

FILES = {"model.skops": b"\x00model", "metadata.json": b"{}"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The query of a URI that names a small S3 of ours."""
    with s3_server() as address:
        yield f"region=eu-west-1&endpoint_override={address}&scheme=http"


@pytest.fixture(params=["folder", "memory", "local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3: str) -> ArtefactStore:
    match request.param:
        case "folder":
            return LocalFolder(tmp_path / "models" / "churn")
        case "memory":
            return ObjectStore(MemoryStore(), "models/churn")
        case "local":
            return ObjectStore(LocalStore(tmp_path), "models/churn")
        case _:
            return open_store(f"s3://key:hunter2@{tmp_path.name.replace('_', '-')}/models?{s3}", "churn")


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


def test_a_journal_that_was_replaced_is_read_from_its_end(tmp_path: Path) -> None:
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


def test_a_folder_without_its_mark_is_not_listed() -> None:
    objects = ObjectStore(MemoryStore(), "churn")
    objects._write("half/model.skops", b"1")
    assert objects.folders() == []
    objects.write_folder("half", FILES)
    assert objects.folders() == ["half"]


def test_a_writer_that_comes_between_looking_and_writing_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryStore()
    first, second = ObjectStore(backend, "churn"), ObjectStore(backend, "churn")
    put = obstore.put

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(obstore, "put", put)
        assert second.append(b"second", after=0)
        return put(*args, **kwargs)

    monkeypatch.setattr(obstore, "put", overtaken)
    assert not first.append(b"first", after=0)
    assert first.entries() == [b"second"]


def test_an_append_whose_answer_was_lost_is_recognised_as_its_own() -> None:
    objects = ObjectStore(MemoryStore(), "churn")
    assert objects.append(b"1", after=0)
    assert objects.append(b"1", after=0)  # what a retry of the request finds
    assert objects.entries() == [b"1"]


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/models?region=eu-west-1",
        "gs://anonymous@bucket/models",
        "az://account:a2V5@container/models",
        "abfs://container@account.dfs.core.windows.net/models",
    ],
)
def test_a_uri_names_an_object_store(uri: str) -> None:
    assert isinstance(open_store(uri, "churn"), ObjectStore)
    assert connect(uri)[1] == "models"


def test_other_locations_are_folders(tmp_path: Path) -> None:
    assert isinstance(open_store(tmp_path, "churn"), LocalFolder)
    assert isinstance(open_store(f"file://{tmp_path}", "churn"), LocalFolder)


@pytest.mark.parametrize(
    "location",
    [
        "gopher://key:hunter2@somewhere",
        "s3://key:hunter2@bucket/x?foo=1",
        "s3://key:hunter2/more@bucket/x",
        "s3://",
        "s3://k y:hunter2@b",
        "az://account:hunter2@container",  # no base64
        "s3://bucket?hunter2",
    ],
)
def test_a_location_that_is_none_is_refused_without_its_credentials(location: str) -> None:
    with pytest.raises(ConfigurationError, match=r"TOCSIN_MODELS_URL: .* is no place for models") as caught:
        open_store(location, "churn")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_bucket_without_a_region_is_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(object_store, "REGION_URL", "http://127.0.0.1:1")
    uri = "s3://key:hunter2@bucket"
    with pytest.raises(ModelUnavailableError, match=r"s3://\*\*\*@bucket does not answer") as caught:
        open_store(uri, "churn")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("place", ["bucket/m?endpoint_override=127.0.0.1:1", "missing?{s3}", "denied?{s3}"])
def test_a_store_that_does_not_answer_is_an_error_of_ours(
    place: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_RETRY", {"max_retries": 0})
    uri = f"s3://key:hunter2@{place.format(s3=s3)}"
    store = open_store(uri if s3 in uri else f"{uri}&scheme=http", "churn")
    steps: list[Callable[[], object]] = [
        store.folders,
        store.entries,
        lambda: store.remove("x"),
        lambda: store.append(b"1", after=0),
        lambda: store.write_folder("x", FILES),
    ]
    if "missing" not in place:  # an object of a bucket that is missing is not found, like any other
        steps.append(lambda: store.read("x"))
    for step in steps:
        with pytest.raises(ModelUnavailableError, match=r"at s3://\*\*\*@\S+ does not answer") as caught:
            step()
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_the_shared_credentials_of_amazon_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "credentials"
    shared.write_text(
        "[default]\naws_access_key_id=A\naws_secret_access_key=B%C\n"
        "[work]\naws_access_key_id=D\naws_secret_access_key=E\naws_session_token=F\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))

    def config(uri: str) -> dict[str, Any]:
        store, *_ = connect(uri)
        return {str(key).removeprefix("aws_"): value for key, value in getattr(store, "config", {}).items()}

    keys = config("s3://bucket?region=eu-west-1")
    assert (keys["access_key_id"], keys["secret_access_key"]) == ("A", "B%C")
    monkeypatch.setenv("AWS_PROFILE", "work")
    keys = config("s3://bucket?region=eu-west-1")
    assert (keys["access_key_id"], keys["secret_access_key"], keys["session_token"]) == ("D", "E", "F")
    assert config("s3://X:Y@bucket?region=eu-west-1")["access_key_id"] == "X"
    shared.write_text("no file of profiles")
    assert "access_key_id" not in config("s3://bucket?region=eu-west-1")
