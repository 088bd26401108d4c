from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from tocsin.errors import ConfigurationError
from tocsin.secrets import without_credentials
from tocsin.settings import ACCOUNT_CHANNELS, SECRETS, Settings, describe, is_loopback

KEY = "k" * 16


def read(**values: str) -> Settings:
    return Settings.from_env({f"TOCSIN_{name.upper()}": value for name, value in values.items()})


def test_nothing_set_is_a_platform_on_loopback() -> None:
    settings = read()
    assert (settings.host, settings.port, settings.base_url) == ("127.0.0.1", 8000, "http://127.0.0.1:8000")
    assert settings.redis_url == settings.api_key == ""
    assert settings.data_path.name == "tocsin"


def test_other_variables_are_not_ours() -> None:
    assert Settings.from_env({"HOME": "/", "TOCSIN_URL": "http://elsewhere", "XTOCSIN_PORT": "1"}) == read()


def test_an_empty_variable_is_the_default() -> None:
    assert read(port="", host="", namespace="") == read()


@pytest.mark.parametrize("name", ["TOCSIN_PROT", "TOCSIN_", "TOCSIN_P0_ROUTER"])
def test_an_unknown_variable_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name} is not a setting"):
        Settings.from_env({name: "1"})


PARTITIONS = ("p0_partitions", "p1_partitions", "p2_partitions", "activity_partitions")
POOLS = ("p0_routers", "p1_routers", "p2_routers", "feature_shards")
TIMES = ("webhook_timeout_s", "outcome_retention_s", "insight_ttl_s")
BOUNDS = [
    *((name, low, high) for name in ("port", "dashboard_port") for low, high in [("1", "65535")]),
    *((name, "1", "256") for name in PARTITIONS),
    *((name, "1", "64") for name in POOLS),
    ("maxmemory_mib", "0", "1048576"),
    *((name, "1", "100000000") for name in ("p1_max_records", "p2_max_records")),
]


@pytest.mark.parametrize(("name", "low", "high"), BOUNDS)
def test_numbers_have_bounds(name: str, low: str, high: str) -> None:
    assert getattr(read(**{name: low}), name) == int(low)
    assert getattr(read(**{name: high}), name) == int(high)
    for outside in (str(int(low) - 1), str(int(high) + 1), "-1", "x", "1.5", "1e9", "nan"):
        with pytest.raises(ConfigurationError, match=f"^TOCSIN_{name.upper()}: "):
            read(**{name: outside})


@pytest.mark.parametrize("name", TIMES)
def test_times_have_bounds(name: str) -> None:
    assert getattr(read(**{name: "0.5"}), name) == 0.5
    assert getattr(read(**{name: "31536000"}), name) == 31_536_000
    for outside in ("0", "-1", "31536001", "nan", "inf", "-inf", "1e999", "soon"):
        with pytest.raises(ConfigurationError, match=f"^TOCSIN_{name.upper()}: "):
            read(**{name: outside})


@pytest.mark.parametrize("text", ["", "a", "tocsin-2", "a_b", "a" * 32])
def test_a_namespace_may_be_short_lower_case_text(text: str) -> None:
    assert read(namespace=text).namespace == (text or "tocsin")


@pytest.mark.parametrize("text", ["A", "1a", "-a", "a" * 33, "a b", "a:b", "{a}", "ä"])
def test_a_namespace_may_be_nothing_else(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^TOCSIN_NAMESPACE: "):
        read(namespace=text)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("1", True), ("0", False)])
def test_a_switch_is_on_or_off(text: str, value: bool) -> None:
    assert read(webhook_allow_private=text).webhook_allow_private is value


@pytest.mark.parametrize(
    ("name", "text"),
    [("webhook_allow_private", "maybe"), ("as_of", "yesterday"), ("as_of", "2024-05-01"), ("as_of", "Now")],
)
def test_other_text_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^TOCSIN_{name.upper()}: "):
        read(**{name: text})


@pytest.mark.parametrize("text", ["now", "latest", "2024-05-01T00:00:00Z"])
def test_as_of_is_now_the_newest_event_or_a_time(text: str) -> None:
    assert read(as_of=text).as_of == text


# --------------------------------------------------------------------------- safety


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.example.org"])
def test_an_address_others_can_reach_needs_a_key(host: str) -> None:
    with pytest.raises(ConfigurationError, match="TOCSIN_API_KEY is empty"):
        read(host=host)
    assert read(host=host, api_key=KEY).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    assert read(host=host).api_key == ""


def test_a_short_key_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="shorter than 16") as caught:
        read(api_key="sesame")
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h:6379", "h:6379", "REDIS://h"])
def test_a_redis_url_has_a_redis_scheme(url: str) -> None:
    must = r"must start with redis://, rediss:// or unix://$"
    with pytest.raises(ConfigurationError, match=rf"^TOCSIN_REDIS_URL {must}"):
        read(redis_url=url)
    with pytest.raises(ConfigurationError, match=rf"^TOCSIN_REDIS_URL_P0 {must}"):
        read(redis_url_p0=url)


@pytest.mark.parametrize("url", ["redis://h", "rediss://u:p@h:1/0", "unix:///run/redis.sock"])
def test_redis_urls_of_every_kind_are_taken(url: str) -> None:
    assert read(redis_url=url).redis_url == url


def test_secrets_never_show() -> None:
    url = "redis://u:hunter2hunter2@h"
    settings = read(redis_url=url, redis_url_p0=url, api_key="swordfish-swordfish")
    for shown in (repr(settings), str(settings), f"{settings}", f"{[settings]}", pretty_repr(settings)):
        assert "hunter2" not in shown
        assert "swordfish" not in shown
        assert "api_key=***" in shown.replace("'", "")
    assert "api_key=''" in repr(read())
    accounts = {f"{channel}_providers" for channel in ACCOUNT_CHANNELS}
    assert {"redis_url", "redis_url_p0", "api_key", "webhook_secret"} | accounts == SECRETS


SECRET_URI = "s3://AKIAKEY:hunter2/hunter2@bucket/path?region=eu-west-1"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("", ""),
        ("/data/archive?@", "/data/archive?@"),
        ("s3://bucket/path", "s3://bucket/path"),
        (SECRET_URI, "s3://***@bucket/path?…"),
        ("abfs://container@account/path?sig=hunter2", "abfs://***@account/path?…"),
        ("s3://bucket/path?token=hunter@2", "s3://…"),
        ("s3://key:hunter?2@bucket/path", "s3://…"),
    ],
)
def test_a_location_shows_without_credentials(location: str, shown: str) -> None:
    assert without_credentials(location) == shown


def test_locations_show_but_for_their_credentials() -> None:
    settings = read(archive_uri=SECRET_URI, models_url=SECRET_URI)
    assert "hunter2" not in repr(settings) + pretty_repr(settings)
    assert repr(settings).count("s3://***@bucket/path?…") == 2
    assert settings.archive == settings.models_location == SECRET_URI


def test_a_channels_providers_are_a_list_in_order_of_preference() -> None:
    settings = read(
        sms_providers=" twilio://a/{target}  vonage://b/{target} ", webhook_url="https://a https://b"
    )
    assert settings.providers("sms") == ["twilio://a/{target}", "vonage://b/{target}"]
    assert settings.providers("webhook") == ["https://a", "https://b"]
    assert settings.providers("email") == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sms_providers": "not-a-url"}, "TOCSIN_SMS_PROVIDERS must hold Apprise URLs"),
        ({"sms_providers": "a://b " * 5}, "TOCSIN_SMS_PROVIDERS names 5 providers; 4 are the most"),
        ({"webhook_url": "https://a ftp://b"}, "TOCSIN_WEBHOOK_URL must start with http"),
    ],
)
def test_providers_that_cannot_be_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(**given)


def test_the_table_for_people_names_every_setting_and_shows_no_secret() -> None:
    rows = describe()
    assert [name for name, _, _ in rows] == [
        f"TOCSIN_{field.upper()}" for field in Settings.__struct_fields__
    ]
    assert all(meaning for _, _, meaning in rows)


# --------------------------------------------------------------------------- derived


@given(
    port=st.integers(1, 65535),
    host=st.sampled_from(["127.0.0.1", "0.0.0.0", "::1", "localhost"]),
    timeout=st.floats(0.001, 1000),
    private=st.booleans(),
    namespace=st.from_regex(r"\A[a-z][a-z0-9_-]{0,31}\Z"),
    redis_url=st.sampled_from(["", "redis://:p@h"]),
)
def test_settings_survive_the_environment(timeout: float, private: bool, **values: Any) -> None:
    settings = Settings(
        data_dir="/data",
        api_key=KEY,
        webhook_timeout_s=timeout,
        webhook_allow_private=private,
        as_of="latest",
        **values,
    )
    assert Settings.from_env(settings.to_env()) == settings


def test_lanes_have_their_partitions_and_pools() -> None:
    settings = read(p0_partitions="5", activity_partitions="6", p2_routers="7", feature_shards="8")
    assert (settings.partitions("p0"), settings.partitions("activity")) == (5, 6)
    assert (settings.pool_size("p2"), settings.pool_size("activity")) == (7, 8)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("box", "http://box:8000"),
    ],
)
def test_the_base_url_can_be_called_from_this_machine(host: str, url: str) -> None:
    assert read(host=host, api_key=KEY).base_url == url


def test_data_rests_under_the_xdg_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert read().data_path == tmp_path / "tocsin"
    assert read().models_path == tmp_path / "tocsin" / "models"
    assert read(data_dir="~/t").data_path == Path.home() / "t"


@pytest.mark.parametrize("name", ["CONTACTS_URL", "DEVICE_STATUS_URL"])
def test_a_service_is_an_http_url(name: str) -> None:
    url = "https://contacts.example/v1"
    assert getattr(read(**{name: url}), name.lower()) == url
    with pytest.raises(ConfigurationError, match=f"TOCSIN_{name} must start with http"):
        read(**{name: "contacts.example"})


@pytest.mark.parametrize("text", ["911", "+49112", "15"])
def test_an_emergency_number_is_digits(text: str) -> None:
    assert read(EMERGENCY_NUMBER=text).emergency_number == text


@pytest.mark.parametrize("text", ["9", "police", "1 1 2", "112\n"])
def test_an_emergency_number_is_nothing_else(text: str) -> None:
    with pytest.raises(ConfigurationError, match="TOCSIN_EMERGENCY_NUMBER"):
        read(EMERGENCY_NUMBER=text)
