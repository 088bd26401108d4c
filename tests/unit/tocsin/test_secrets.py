from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from tocsin.client.transport import request_headers
from tocsin.errors import ConfigurationError
from tocsin.secrets import without_credentials, without_path
from tocsin.settings import FILE_SETTINGS, LOCATIONS, SECRETS, Settings

KEY = "swordfish-swordfish"
PLACES = {
    "redis_url": "redis://user:hunter2@host:6379/0?password=hunter2",
    "redis_url_p0": "rediss://:hunter2@host/1",
    "webhook_url": "https://user:hunter2@a.example/hunter2 https://b.example/x?token=hunter2#hunter2",
    "contacts_url": "https://user:hunter2@c.example/v1?key=hunter2",
    "device_status_url": "https://d.example/v1?key=hunter2#hunter2",
    "archive_uri": "s3://KEY:hunter2@bucket/archive?secret_key=hunter2",
    "models_url": "s3://KEY:hunter2/hunter2@bucket/models?secret_key=hunter2",
    "webhook_secret": "whsec_hunter2",
    "email_providers": "mailto://user:hunter2@mail.example",
    "sms_providers": "twilio://hunter2:hunter2@1/{target}",
    "voice_providers": "twilio://hunter2:hunter2@1/{target}",
    "push_providers": "pover://hunter2@hunter2",
    "chat_providers": "slack://hunter2/hunter2",
    "apprise_providers": "json://hunter2",
    "api_key": "hunter2-hunter2-hunter2",
}


def named(name: str) -> str:
    return f"TOCSIN_{name.upper()}"


def test_every_setting_that_may_hold_a_secret_is_masked_wherever_it_is_shown() -> None:
    settings = Settings.from_env({named(name): value for name, value in PLACES.items()})
    shown = " ".join(str(settings.shown(name)) for name in Settings.__struct_fields__)
    for text in (repr(settings), f"{[settings]}", pretty_repr(settings), shown):
        assert "hunter2" not in text
        assert "bucket/archive" in text  # what is no secret is still there
        assert "a.example" in text
        assert "c.example/v1" in text
    assert set(PLACES) == SECRETS | LOCATIONS == FILE_SETTINGS


def test_a_value_that_is_refused_is_not_shown() -> None:
    for name, value in PLACES.items():
        for bad in (value.replace("://", ":"), f"hunter2 {value}", "hunter2"):
            said = ""
            try:
                Settings.from_env({named(name): bad})
            except ConfigurationError as error:
                said = f"{error} {error.hint}"
            assert "hunter2" not in said


@given(st.text(alphabet="ab/?#@:", max_size=12), st.sampled_from(["", "user:"]))
def test_no_password_survives_whatever_stands_around_it(text: str, user: str) -> None:
    for url in (f"redis://{user}S3CR3T@{text}", f"https://{text}?token=S3CR3T", f"https://{text}#S3CR3T"):
        assert "S3CR3T" not in without_credentials(url)
        assert "S3CR3T" not in without_path(url)


def test_a_webhook_shows_no_more_than_its_host() -> None:
    assert without_path("https://hooks.example:8443/services/T0/B0/tok") == "https://hooks.example:8443/…"
    assert without_path("https://hooks.example") == "https://hooks.example"


# --------------------------------------------------------------------------- from files


def put(folder: Path, name: str, value: str | bytes) -> dict[str, str]:
    path = folder / name
    path.write_bytes(value if isinstance(value, bytes) else value.encode())
    return {f"{named(name)}_FILE": str(path)}


@pytest.mark.parametrize("name", sorted(PLACES))
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_every_secret_may_come_from_a_file(name: str, end: str, tmp_path: Path) -> None:
    settings = Settings.from_env(put(tmp_path, name, PLACES[name] + end))
    assert getattr(settings, name) == PLACES[name]


def test_both_set_is_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TOCSIN_API_KEY and TOCSIN_API_KEY_FILE") as caught:
        Settings.from_env(put(tmp_path, "api_key", KEY) | {"TOCSIN_API_KEY": KEY})
    assert KEY not in str(caught.value)


def test_an_empty_one_of_the_two_is_not_set(tmp_path: Path) -> None:
    assert Settings.from_env(put(tmp_path, "api_key", KEY) | {"TOCSIN_API_KEY": ""}).api_key == KEY
    assert Settings.from_env({"TOCSIN_API_KEY_FILE": "", "TOCSIN_API_KEY": KEY}).api_key == KEY


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"swordfish\x00swordfish", "holds a NUL"),
        (b"x" * 70_000, "larger than 65,536 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_names_it(
    content: bytes | None, says: str, tmp_path: Path
) -> None:
    """An empty key would open the platform to everybody."""
    variables = {"TOCSIN_API_KEY_FILE": str(tmp_path / "api_key")}
    if content is not None:
        put(tmp_path, "api_key", content)
    with pytest.raises(ConfigurationError, match=says) as caught:
        Settings.from_env(variables)
    assert str(caught.value).startswith(f"TOCSIN_API_KEY_FILE: {tmp_path / 'api_key'}")
    assert "swordfish" not in str(caught.value)


def test_a_folder_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"TOCSIN_API_KEY_FILE: .*directory"):
        Settings.from_env({"TOCSIN_API_KEY_FILE": str(tmp_path)})


def test_a_setting_that_is_no_secret_comes_from_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TOCSIN_PORT_FILE is not a setting"):
        Settings.from_env(put(tmp_path, "port", "80"))


def test_a_child_process_takes_the_value_and_not_the_file_again(tmp_path: Path) -> None:
    environ = put(tmp_path, "api_key", KEY)
    settings = Settings.from_env(environ)
    (tmp_path / "api_key").unlink()
    assert Settings.from_env(environ | settings.to_env()) == settings


def test_the_client_reads_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", put(tmp_path, "api_key", f"{KEY}\n"))
    assert request_headers(None)["Authorization"] == f"Bearer {KEY}"
