from __future__ import annotations

import gzip
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tests.support import eventually
from tocsin import Client
from tocsin.settings import Settings

pytestmark = pytest.mark.integration

TOCSIN = Path(sys.executable).with_name("tocsin")


def tocsin(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOCSIN), *arguments], capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | settings.to_env(),
    )  # fmt: skip


def test_status_is_for_people_and_for_machines(settings: Settings) -> None:
    shown = tocsin(settings, "status")
    assert shown.returncode == 0, shown.stderr
    assert "ready" in shown.stdout
    assert str(settings.port) in shown.stdout
    table = [
        line.split()
        for line in shown.stdout.splitlines()
        if line.strip().startswith(("p0", "p1", "p2", "activity"))
    ]
    assert len(table) == 4, "a lane's row wraps on 80 columns"
    assert "--as-of latest" in next(line for line in shown.stdout.splitlines() if line.startswith("now "))
    told = msgspec.json.decode(tocsin(settings, "status", "--json").stdout)
    assert told["readiness"]["ready"] is True
    assert told["status"]["as_of"]["setting"] == "latest"
    assert told["run"]["base_url"] == settings.base_url


def test_a_table_with_bad_rows_is_imported_and_each_bad_row_is_reported(
    settings: Settings, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "spend.csv"
    file.write_text(
        "who,when,spent,currency\n"
        "cli-1,2025-01-05,10.5,\n"
        "cli-1,2025-01-12,-3,\n"
        ",2025-01-12,1,\n"
        "cli-2,2025-02-01,9,EUR\n"
        "cli-2,not a date,1,\n"
        "cli-2,2025-02-01,nan,\n"
        "cli-2,2025-02-01,4,\n",
        encoding="utf-8",
    )
    mapping = ["--map", "advertiser_id=who", "--map", "event_time=when", "--map", "amount=spent"]
    for new, repeated in ((2, 0), (0, 2)):
        done = tocsin(settings, "import", "activity", str(file), *mapping, "--json")
        assert done.returncode == 0, done.stderr
        result = msgspec.json.decode(done.stdout)
        assert (result["rows"], result["accepted"], result["rejected"]) == (7, 2, 5)
        assert (result["new_or_changed"], result["repeated"]) == (new, repeated)
    rejects = [msgspec.json.decode(line) for line in Path(result["rejects_file"]).read_bytes().splitlines()]
    assert [reject["line"] for reject in rejects] == [3, 4, 5, 6, 7]
    assert rejects[2]["reason"] == "`currency` is EUR: only USD"
    assert client.features("cli-1").features["lifetime_spend"].value == 10.5


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "empty"), ("a,b\n1,2\n", "advertiser_id")],
)
def test_an_unusable_file_says_what_to_do(
    settings: Settings, tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(content, encoding="utf-8")
    done = tocsin(settings, "import", "activity", str(file))
    assert done.returncode == 1
    assert said in done.stderr
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["import", "activity"],
        ["import", "activity", "x.csv", "--map", "nonsense"],
        ["demo", "--burst", "0"],
        ["fly"],
    ],
)
def test_a_wrong_call_is_a_usage_error(settings: Settings, arguments: list[str]) -> None:
    done = tocsin(settings, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_alerts_ride_the_lane_of_their_severity_and_only_once(settings: Settings, shared_data: Path) -> None:
    file = shared_data / "nws_alerts" / "atom_feed_2018-08-15.xml"
    first = msgspec.json.decode(tocsin(settings, "import", "alerts", str(file), "--json").stdout)
    second = msgspec.json.decode(tocsin(settings, "import", "alerts", str(file), "--json").stdout)
    assert first["lanes"] == {"p0": 39, "p1": 49, "p2": 75}
    assert (first["accepted"], first["duplicates"], first["rejected"]) == (163, 0, [])
    assert second["duplicates"] == 163


ALERT = (
    "<alert xmlns='urn:oasis:names:tc:emergency:cap:1.2'><identifier>{id}</identifier><status>Actual</status>"
    "<msgType>Alert</msgType><info><event>Wind</event><severity>Minor</severity><expires>{end}</expires>"
    "<headline>{title}</headline><area><areaDesc>Coast</areaDesc></area></info></alert>"
)


def test_alerts_that_are_refused_hold_up_none_of_the_others(settings: Settings, tmp_path: Path) -> None:
    """Here (no date) and by the platform (an end in 1970), before, between and behind good ones."""
    ends = {0: "1970-01-01T00:00:00Z", 1_500: "1970-01-01T00:00:00Z", 7: "tomorrow"}
    alerts = [
        ALERT.format(id=f"many-{at}", end=ends.get(at, "9999-12-31T23:59:59Z"), title=f"Wind {at}")
        for at in range(2_500)
    ]
    file = tmp_path / "alerts.xml"
    file.write_text(f"<alerts>{''.join(alerts)}</alerts>", encoding="utf-8")
    done = tocsin(settings, "import", "alerts", str(file), "--json")
    assert done.returncode == 0, done.stderr
    result = msgspec.json.decode(done.stdout)
    assert (result["accepted"], result["duplicates"]) == (2_497, 0)
    assert [reject["position"] for reject in result["rejected"]] == [0, 7, 1_500]
    shown = tocsin(settings, "import", "alerts", str(file))
    assert "3 rejected" in shown.stdout.replace("\n", " ")
    assert "entry 1500" in shown.stdout


def test_one_record_dated_today_moves_nobody(
    settings: Settings, client: Client, trained: list[str], tmp_path: Path
) -> None:
    before = client.features(trained[0])
    file = tmp_path / "stray.csv.gz"
    today = datetime.now(UTC).isoformat()
    file.write_bytes(gzip.compress(f"advertiser_id,event_time\nstray,{today}\n".encode()))
    result = msgspec.json.decode(tocsin(settings, "import", "activity", str(file), "--json").stdout)
    assert (result["accepted"], result["as_of"]["ahead"]) == (1, 1)
    assert result["as_of"]["moment"] == before.as_of.timestamp()
    shown = tocsin(settings, "status").stdout
    assert "1 with events up to" in shown
    eventually(lambda: client.features(trained[0]).as_of == before.as_of, what="the same now")


def test_every_setting_is_explained(settings: Settings) -> None:
    shown = msgspec.json.decode(tocsin(settings, "config", "--json").stdout)
    assert shown["TOCSIN_PORT"] == str(settings.port)
    assert shown["TOCSIN_REDIS_URL"] == ""


def test_an_unknown_setting_is_named(settings: Settings) -> None:
    done = subprocess.run(
        [str(TOCSIN), "config"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TOCSIN_PROT": "1"},
    )
    assert done.returncode == 1
    assert "TOCSIN_PROT" in done.stderr


def test_a_second_up_finds_the_first(settings: Settings) -> None:
    done = tocsin(settings, "up")
    assert done.returncode == 0
    assert "already runs" in done.stdout
    assert str(settings.port) in done.stdout
