"""The archive: what was written once is there once, whatever is interrupted, and nothing else gets in."""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.columns import SchemaMismatchError
from features.definitions import DAY_S
from features.event_table import SCHEMA, activities_of, event_table
from features.offline.archive import GRACE_S, Archive
from features.offline.archive_files import ArchiveFiles
from tocsin.errors import (
    ArchiveUnavailableError,
    ConfigurationError,
    InvalidRecordError,
    UnreadableFileError,
)
from tocsin.wire.activity import Activity

START = 17_532 * DAY_S  # 2018-01-01
LATER = 4e9  # after every file's time


def events(count: int = 60, seed: int = 1, advertisers: str = "abcdé") -> list[Activity]:
    chance = random.Random(seed)  # noqa: S311 (made-up data)
    return [
        Activity(
            chance.choice(advertisers),
            START + chance.random() * 90 * DAY_S,
            round(chance.random() * 100, 2),
            "spend",
            f"{seed}-{number}",
            chance.choice(["", "x"]),
            "",
            START + number,
        )
        for number in range(count)
    ]


def key(one: Activity) -> tuple[Any, ...]:
    return tuple(getattr(one, name) for name in SCHEMA.names)


def everything(archive: Archive, **options: Any) -> list[Activity]:
    return [one for table in archive.read(**options) for one in activities_of(table)]


def alike(found: list[Activity], wanted: list[Activity]) -> bool:
    return sorted(map(key, found)) == sorted(map(key, wanted))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(str(tmp_path / "archive"))


def test_what_was_written_is_read_by_whole_advertisers_in_order(archive: Archive) -> None:
    told = events()
    assert archive.append(event_table(told), "one") == len(told)
    tables = list(archive.read(batch_rows=20))
    assert len(tables) > 2
    names = [sorted(set(table["advertiser_id"].to_pylist())) for table in tables]
    assert [name for part in names for name in part] == sorted({one.advertiser_id for one in told})
    assert alike([one for table in tables for one in activities_of(table)], told)


def test_files_lie_in_the_month_of_their_events(archive: Archive, tmp_path: Path) -> None:
    archive.append(event_table(events()), "one")
    found = sorted(str(path.relative_to(tmp_path / "archive")) for path in tmp_path.rglob("*.parquet"))
    assert found == [f"month=2018-0{month}/one.parquet" for month in (1, 2, 3)]


def test_the_same_name_is_written_once(archive: Archive) -> None:
    told = events()
    archive.append(event_table(told), "one")
    assert archive.append(event_table(told), "one") == 0
    assert alike(everything(archive), told)


def test_a_range_of_time_and_some_advertisers(archive: Archive) -> None:
    told = events()
    archive.append(event_table(told), "one")
    start, end = START + 10 * DAY_S, START + 40 * DAY_S
    wanted = [one for one in told if start <= one.event_time < end and one.advertiser_id in "aé"]
    assert wanted
    assert alike(everything(archive, start=start, end=end, advertisers=["a", "é", "nobody"]), wanted)
    assert {part.month for part in archive.parts(start, end)} == {"2018-01", "2018-02"}


def test_a_compaction_changes_no_event(archive: Archive, tmp_path: Path) -> None:
    told = [events(seed=seed) for seed in range(4)]
    for number, part in enumerate(told):
        archive.append(event_table(part), f"part-{number}")
    archive.append(event_table(told[0][:30]), "again")  # landed twice
    before = archive.parts()
    found = archive.compact(LATER)
    assert (found.months, found.files_before, found.files_after) == (3, len(before), 3)
    assert found.rows_before - found.rows_after == 30
    assert len(archive.parts()) == 3
    assert alike(everything(archive), [one for part in told for one in part])
    assert archive.compact(LATER).months == 0
    assert len(list(tmp_path.rglob("*.parquet"))) == 3  # those replaced are gone by the second time


def test_replaced_files_stay_for_readers_that_listed_them(archive: Archive, tmp_path: Path) -> None:
    archive.append(event_table(events(seed=1)), "one")
    archive.append(event_table(events(seed=2)), "two")
    reading = archive.read(batch_rows=20)
    first = activities_of(next(reading))
    newest = max(path.stat().st_mtime for path in tmp_path.rglob("*.parquet"))
    archive.compact(newest)
    assert archive.compact(newest + GRACE_S / 2).removed == 0
    rest = [one for table in reading for one in activities_of(table)]
    assert alike([*first, *rest], [*events(seed=1), *events(seed=2)])
    assert archive.compact(newest + 2 * GRACE_S).removed == 6


class Failing:
    """A file system that stops working at a change, by number."""

    CHANGES = ("create_dir", "open_output_stream", "move", "delete_file")

    def __init__(self, real: Any, changes: int) -> None:
        self._real = real
        self._left = changes

    def __getattr__(self, name: str) -> Any:
        if name in self.CHANGES:
            self._left -= 1
            if self._left < 0:
                raise OSError("stopped")
        return getattr(self._real, name)


def test_a_compaction_that_stops_anywhere_loses_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = [*events(seed=1), *events(seed=2)]
    archive.append(event_table(told[:60]), "one")
    archive.append(event_table(told[60:]), "two")
    files = archive._files
    monkeypatch.setattr(ArchiveFiles, "dataset", _dataset_on(files.filesystem))
    real, stops = files.filesystem, 0
    for changes in range(40):
        files.filesystem = Failing(real, changes)
        try:
            archive.compact(LATER)
            done = archive.compact(LATER)
        except ArchiveUnavailableError:
            stops += 1
        else:
            break
        files.filesystem = real
        assert alike(everything(archive), told)
    files.filesystem = real
    assert stops == changes > 5
    assert done.months == 0
    assert alike(everything(archive), told)
    assert len(archive.parts()) == 3
    assert not list(tmp_path.rglob("*.unfinished"))


def _dataset_on(filesystem: Any) -> Any:
    """Reading goes on where writing has stopped: a dataset takes no file system of ours."""
    whole = ArchiveFiles.dataset

    def dataset(self: ArchiveFiles, parts: Any) -> Any:
        failing, self.filesystem = self.filesystem, filesystem
        try:
            return whole(self, parts)
        finally:
            self.filesystem = failing

    return dataset


@pytest.fixture
def strange(archive: Archive, tmp_path: Path) -> Iterator[Path]:
    archive.append(event_table(events()), "one")
    path = tmp_path / "archive" / "month=2018-01" / "strange.parquet"
    yield path
    assert path.exists()


def test_a_file_of_another_schema_is_named(archive: Archive, strange: Path) -> None:
    table = event_table(events())
    pq.write_table(table.drop_columns("campaign_id"), strange)
    with pytest.raises(SchemaMismatchError, match=r"strange.parquet lacks the column campaign_id$"):
        archive.parts()
    pq.write_table(table.append_column("colour", pa.array(["red"] * len(table))), strange)
    with pytest.raises(SchemaMismatchError, match=r"strange.parquet has unknown columns: colour$"):
        list(archive.read())
    at = table.column_names.index("amount")
    pq.write_table(table.set_column(at, "amount", table["amount"].cast(pa.float32())), strange)
    with pytest.raises(SchemaMismatchError, match=r"strange.parquet: amount is float, expected double$"):
        archive.compact(LATER)


def test_a_damaged_file_is_named(archive: Archive, strange: Path) -> None:
    strange.write_bytes(b"PAR1 no")
    with pytest.raises(UnreadableFileError, match=r"strange\.parquet cannot be read"):
        archive.parts()


def test_what_is_not_finished_or_not_ours_is_not_read(archive: Archive, tmp_path: Path) -> None:
    archive.append(event_table(events()), "one")
    (tmp_path / "archive" / "month=2018-01" / "_two.parquet.unfinished").write_bytes(b"")
    (tmp_path / "archive" / "notes.parquet").write_bytes(b"")
    assert len(archive.parts()) == 3


@pytest.mark.parametrize("name", ["", "../up", "a/b", "compacted-1", "x" * 201])
def test_names_are_checked(archive: Archive, name: str) -> None:
    with pytest.raises(InvalidRecordError, match="cannot name a file"):
        archive.append(event_table(events()), name)


def test_places_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no place for an archive"):
        Archive("nonsense://somewhere")
    assert list(Archive(str(tmp_path / "nothing")).read()) == []


@pytest.mark.parametrize(
    "uri",
    ["gopher://key:hunter2@somewhere", "s3://key:hunter2@bucket/x?foo=1", "s3://", "s3://k y:hunter2@b"],
)
def test_a_place_that_is_none_is_refused_without_its_credentials(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="is no place for an archive") as caught:
        Archive(uri)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


class Away:
    """A file system that answers until it is cut off."""

    def __init__(self, files: Any, answered: int) -> None:
        self._files = files
        self._left = answered

    def __getattr__(self, name: str) -> Any:
        self._left -= 1
        if self._left < 0:
            raise OSError("AWS Error NETWORK_CONNECTION")
        return getattr(self._files, name)


@pytest.mark.parametrize("answered", range(6))
def test_an_object_store_that_does_not_answer_is_an_error_of_ours(archive: Archive, answered: int) -> None:
    archive.append(event_table(events()), "one")
    archive.append(event_table(events()), "two")
    whole, files = everything(archive), archive._files
    real = files.filesystem
    for step in (lambda: archive.append(event_table(events(seed=2)), "x"), lambda: archive.compact(LATER)):
        files.filesystem = Away(real, answered)
        with pytest.raises(ArchiveUnavailableError, match="does not answer or refuses: AWS Error"):
            step()
    files.filesystem = Away(real, min(answered, 1))
    with pytest.raises(ArchiveUnavailableError):
        archive.parts()
    files.filesystem = real
    archive.append(event_table(events(seed=2)), "x")
    archive.compact(LATER)
    assert {key(one) for one in everything(archive)} == {key(one) for one in [*whole, *events(seed=2)]}


def test_a_file_that_a_compaction_removes_meanwhile_is_passed_over(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = events()
    archive.append(event_table(told), "one")
    archive.append(event_table(told), "two")
    listed = archive._files.infos()
    archive.compact(LATER)
    listed += [info for info in archive._files.infos() if "compacted" in info.path]
    archive.compact(LATER)
    monkeypatch.setattr(archive._files, "infos", lambda: listed)
    assert all("compacted" in part.name for part in archive.parts())
    assert alike(everything(archive), told)


def test_a_uri_works_as_a_folder_does(tmp_path: Path) -> None:
    archive = Archive(f"file://{tmp_path}/archive")
    archive.append(event_table(events()), "one")
    assert alike(everything(Archive(str(tmp_path / "archive"))), events())


def test_activities_survive_the_way_there_and_back() -> None:
    told = [Activity("a", START + 0.1, 1e12, "campaign", "1", "c", "EUR", 5.5, backdated=True), *events(3)]
    assert activities_of(event_table(told)) == told
