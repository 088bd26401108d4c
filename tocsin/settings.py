"""One frozen `Settings`, read from the environment (`TOCSIN_…`).

Every process builds its own with `Settings.from_env()`; nothing else in the project reads the environment.
`tocsin config` prints the table below with the values in force. Secrets never show in a repr, and each may come from
a file instead: `TOCSIN_API_KEY_FILE` names one (`tocsin/secrets.py`).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from tocsin.errors import ConfigurationError
from tocsin.secrets import FILE_SUFFIX, read_secret, without_credentials, without_path

PREFIX = "TOCSIN_"
SECRETS = frozenset(
    {
        "redis_url",
        "redis_url_p0",
        "api_key",
        "webhook_secret",
        "email_providers",
        "sms_providers",
        "voice_providers",
        "push_providers",
        "chat_providers",
        "apprise_providers",
    }
)
HOOKS = frozenset({"webhook_url"})  # shown by their hosts: the path of a hook is often a secret
PLACES = frozenset({"archive_uri", "models_url", "contacts_url", "device_status_url"})
LOCATIONS = HOOKS | PLACES  # shown, but for the credentials they may hold
FILE_SETTINGS = SECRETS | LOCATIONS  # may come from a file
URLS = {
    "contacts_url": ("http://", "https://"),
    "device_status_url": ("http://", "https://"),
    "webhook_url": ("http://", "https://"),
    "redis_url": ("redis://", "rediss://", "unix://"),
    "redis_url_p0": ("redis://", "rediss://", "unix://"),
}

Port = Annotated[int, Meta(ge=1, le=65535)]
Pool = Annotated[int, Meta(ge=1, le=64)]
Partitions = Annotated[int, Meta(ge=1, le=256)]
Retention = Annotated[float, Meta(ge=1, le=31_536_000)]
Records = Annotated[int, Meta(ge=1, le=100_000_000)]
Ratio = Annotated[float, Meta(gt=0, le=1)]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]


def default_data_dir() -> str:
    """Where the embedded server, models and delivery logs live: `$XDG_DATA_HOME/tocsin`."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return str(Path(base) / "tocsin")


class Settings(Struct, frozen=True, kw_only=True):
    """What can be set, with its default and its bounds."""

    data_dir: Annotated[
        str, Meta(min_length=1, description="Data, models, logs; one platform per folder")
    ] = ""
    namespace: Annotated[
        str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z", description="Prefix of every Redis key and actor name")
    ] = "tocsin"

    redis_url: Annotated[
        str, Meta(description="redis:// or rediss:// URL; empty: an embedded Valkey in the data folder")
    ] = ""
    redis_url_p0: Annotated[
        str, Meta(description="A server of its own for the p0 lane; empty: the same as for everything else")
    ] = ""

    maxmemory_mib: Annotated[
        int,
        Meta(ge=0, le=1_048_576, description="Memory limit of the embedded Valkey, MiB; 0: none"),
    ] = 0
    p1_memory_ratio: Annotated[
        Ratio, Meta(description="Share of the server's maxmemory from which p1 is refused; the rest is p0's")
    ] = 0.9
    p2_memory_ratio: Annotated[
        Ratio, Meta(description="Share of the server's maxmemory from which p2 and activity are refused")
    ] = 0.8
    p1_max_records: Annotated[Records, Meta(description="Records waiting in p1 from which it is refused")] = (
        1_000_000
    )
    p2_max_records: Annotated[Records, Meta(description="Records waiting in p2 from which it is refused")] = (
        2_000_000
    )
    p1_max_age_s: Annotated[
        Seconds, Meta(description="Age of the oldest record in p1 from which more are refused")
    ] = 3600.0
    p2_max_age_s: Annotated[
        Seconds, Meta(description="Age of the oldest record in p2 from which more are refused")
    ] = 3600.0

    p1_shared_from_s: Annotated[
        Seconds, Meta(description="Seconds of work waiting in p1 from which its sources have shares")
    ] = 1.0
    p2_shared_from_s: Annotated[
        Seconds, Meta(description="Seconds of work waiting in p2 from which its sources have shares")
    ] = 2.0

    host: Annotated[str, Meta(min_length=1, description="Address to serve HTTP on")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port to serve HTTP on")] = 8000
    dashboard_port: Annotated[Port, Meta(description="Port of the Ray dashboard")] = 8265
    api_key: Annotated[
        str, Meta(description="Required from callers when set; needed for any host but loopback")
    ] = ""

    p0_partitions: Annotated[
        Partitions, Meta(description="Streams of the p0 lane; fixed once data is in")
    ] = 4
    p1_partitions: Annotated[Partitions, Meta(description="Streams of the p1 lane")] = 4
    p2_partitions: Annotated[Partitions, Meta(description="Streams of the p2 lane")] = 8
    activity_partitions: Annotated[Partitions, Meta(description="Streams of the activity lane")] = 4
    p0_routers: Annotated[Pool, Meta(description="Router actors for p0")] = 2
    p1_routers: Annotated[Pool, Meta(description="Router actors for p1")] = 1
    p2_routers: Annotated[Pool, Meta(description="Router actors for p2")] = 1
    feature_shards: Annotated[Pool, Meta(description="Feature shard actors")] = 2

    pool_max: Annotated[
        Pool,
        Meta(description="The most members a pool grows to while work waits; never more than partitions"),
    ] = 4

    webhook_url: Annotated[
        str,
        Meta(
            description="Targets of the webhook channel when a notification names none, in order of preference"
        ),
    ] = ""
    webhook_secret: Annotated[
        str, Meta(description="whsec_… key that signs webhook calls (Standard Webhooks); empty: not signed")
    ] = ""
    webhook_batch: Annotated[
        int, Meta(ge=1, le=1000, description="The most p2 notifications in one webhook call")
    ] = 100
    webhook_timeout_s: Annotated[Seconds, Meta(description="Deadline of one webhook call")] = 5.0
    webhook_allow_private: Annotated[
        bool, Meta(description="Let a notification's own webhook_url name a private or loopback address")
    ] = False

    email_providers: Annotated[
        str,
        Meta(
            description="Apprise URLs of the email channel in order of preference, {target} for the address"
        ),
    ] = ""
    sms_providers: Annotated[str, Meta(description="The same for the sms channel")] = ""
    voice_providers: Annotated[str, Meta(description="The same for the voice channel")] = ""
    push_providers: Annotated[str, Meta(description="The same for the push channel")] = ""
    chat_providers: Annotated[str, Meta(description="The same for the chat channel")] = ""
    apprise_providers: Annotated[
        str, Meta(description="The same for the apprise channel: whatever else Apprise speaks")
    ] = ""
    rules: Annotated[str, Meta(max_length=1024, description="TOML file of your own rules of priority")] = ""
    contacts_url: Annotated[
        str, Meta(description="Service that validates the contacts of emergency calls; empty: none")
    ] = ""
    device_status_url: Annotated[
        str, Meta(description="Service that tells a device's state during an emergency call; empty: none")
    ] = ""
    emergency_number: Annotated[
        str,
        Meta(
            pattern=r"^\+?[0-9]{2,15}\Z", description="Also told when an emergency's contacts are uncertain"
        ),
    ] = "112"

    outcome_retention_s: Annotated[
        Seconds, Meta(description="How long a delivered notification can be asked for")
    ] = 86_400.0

    currency: Annotated[
        str, Meta(pattern=r"^[A-Z]{3}\Z", description="The one currency of activity, ISO 4217")
    ] = "USD"
    activity_late_days: Annotated[
        int,
        Meta(ge=1, le=36_525, description="Activity older than this is refused, by its event time"),
    ] = 10_000
    archive_uri: Annotated[
        str,
        Meta(
            max_length=1024,
            description="Where the event log lands as Parquet: a folder or a URI such as s3://bucket/archive; "
            "empty: the data folder",
        ),
    ] = ""
    as_of: Annotated[
        str,
        Meta(
            pattern=r"^(now|latest|\d{4}-\d{2}-\d{2}T\S+)\Z",
            description="The 'now' of features: now, latest (the end of the data: for historical data) or a time",
        ),
    ] = "now"
    models_url: Annotated[
        str,
        Meta(
            description="Where models are kept: a folder or a URI such as s3://bucket/models; empty: the data folder"
        ),
    ] = ""
    model_owner: Annotated[
        str,
        Meta(
            min_length=1, max_length=128, description="The recipient told when the guard rolls a model back"
        ),
    ] = "model-owners"
    shadow_sample: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of churn requests both models score while one is on trial"),
    ] = 0.2
    insight_ttl_s: Annotated[Seconds, Meta(description="How long an insight is served from the cache")] = (
        300.0
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read and check every `TOCSIN_…` variable.

        Raises:
            ConfigurationError: a variable is unknown, malformed or out of range, or a public address has no key.
        """
        env = os.environ if environ is None else environ
        raw = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in env.items()
            if name.startswith(PREFIX) and name not in CLIENT_VARIABLES | FILE_VARIABLES
        }
        known = {field.name for field in fields(cls)}
        for name in raw.keys() - known:
            raise ConfigurationError(
                f"{PREFIX}{name.upper()} is not a setting", hint="`tocsin config` lists them all"
            )
        raw |= {name: read_secret(PREFIX + name.upper(), env) for name in FILE_SETTINGS}
        values: dict[str, Any] = {name: value for name, value in raw.items() if value != ""}
        values.setdefault("data_dir", default_data_dir())
        try:
            settings = msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            detail, _, path = str(error).partition(" - at `$.")
            name = path.rstrip("`").upper()
            raise ConfigurationError(
                f"{PREFIX}{name}: {detail}", hint="`tocsin config` shows every bound"
            ) from None
        settings.check()
        return settings

    def check(self) -> None:
        """Refuse combinations that would be unsafe.

        Raises:
            ConfigurationError: the address is not loopback and no API key is set, or a Redis URL is malformed.
        """
        if not self.api_key and not is_loopback(self.host):
            raise ConfigurationError(
                f"TOCSIN_HOST={self.host} is reachable from other machines and TOCSIN_API_KEY is empty",
                hint="set TOCSIN_API_KEY, or serve on 127.0.0.1",
            )
        if self.api_key and len(self.api_key) < MIN_API_KEY:
            raise ConfigurationError(f"TOCSIN_API_KEY is shorter than {MIN_API_KEY} characters")
        if self.as_of not in {"now", "latest"}:
            try:
                aware = msgspec.convert(self.as_of, datetime).tzinfo is not None
            except msgspec.ValidationError:
                aware = False
            if not aware:
                raise ConfigurationError(f"TOCSIN_AS_OF={self.as_of} is not an RFC 3339 time with an offset")
        self._check_targets()
        if self.p2_memory_ratio > self.p1_memory_ratio:
            raise ConfigurationError(
                f"TOCSIN_P2_MEMORY_RATIO={self.p2_memory_ratio:g} is above TOCSIN_P1_MEMORY_RATIO="
                f"{self.p1_memory_ratio:g}",
                hint="p2 gives way first",
            )

    def _check_targets(self) -> None:
        for name, schemes in URLS.items():
            for value in str(getattr(self, name)).split():
                if not value.startswith(schemes):
                    known = f"{', '.join(schemes[:-1])} or {schemes[-1]}"
                    raise ConfigurationError(f"{PREFIX}{name.upper()} must start with {known}")
        for channel in ACCOUNT_CHANNELS:
            found = self.providers(channel)
            name = f"{PREFIX}{channel.upper()}_PROVIDERS"
            if len(found) > MAX_PROVIDERS:
                raise ConfigurationError(f"{name} names {len(found)} providers; {MAX_PROVIDERS} are the most")
            if not all("://" in one for one in found):
                raise ConfigurationError(f"{name} must hold Apprise URLs, separated by spaces")

    def providers(self, channel: str) -> list[str]:
        """What serves a channel, in order of preference. Holds secrets: never log it."""
        kept = self.webhook_url if channel == "webhook" else str(getattr(self, f"{channel}_providers"))
        return kept.split()

    @property
    def data_path(self) -> Path:
        """The data folder."""
        return Path(self.data_dir).expanduser()

    @property
    def models_path(self) -> Path:
        """The model registry's folder, where it is one on this machine."""
        return self.data_path / "models"

    @property
    def models_location(self) -> Path | str:
        """Where the model registry is: a folder, or a URI. May hold secrets: never log it."""
        return self.models_url or self.models_path

    @property
    def archive(self) -> str:
        """Where the event log lands: a folder, or a URI. May hold secrets: never log it."""
        return self.archive_uri or str(self.data_path / "archive")

    @property
    def base_url(self) -> str:
        """Where a client on this machine finds the platform."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 (compared, not bound)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def partitions(self, lane: str) -> int:
        """How many streams a lane is split into."""
        return int(getattr(self, f"{lane}_partitions"))

    def pool_size(self, lane: str) -> int:
        """How many actors consume a lane."""
        return self.feature_shards if lane == "activity" else int(getattr(self, f"{lane}_routers"))

    def to_env(self) -> dict[str, str]:
        """The same settings as environment variables, for child processes. Holds secrets: never log it."""
        values = {f"{PREFIX}{f.name.upper()}": getattr(self, f.name) for f in fields(self)}
        # The child has its parent's environment as well, and a secret must not be set twice.
        return dict.fromkeys(sorted(FILE_VARIABLES), "") | {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in values.items()
        }

    def shown(self, name: str) -> Any:
        """The value of a setting for people: secrets are `***`, and locations are without credentials."""
        value = getattr(self, name)
        if name in HOOKS:
            return " ".join(without_path(url) for url in value.split())
        if name in PLACES:
            return without_credentials(value)
        return "***" if name in SECRETS and value else value

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Names and values for rich, secrets masked."""
        return [(f.name, self.shown(f.name)) for f in fields(self)]

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}=***" if name in SECRETS and value else f"{name}={value!r}"
            for name, value in self.__rich_repr__()
        )
        return f"Settings({shown})"


MIN_API_KEY = 16
MAX_PROVIDERS = 4
ACCOUNT_CHANNELS = ("email", "sms", "voice", "push", "chat", "apprise")
CLIENT_VARIABLES = frozenset({"TOCSIN_URL"})  # read by the client, not by the platform
FILE_VARIABLES = frozenset(f"{PREFIX}{name.upper()}{FILE_SUFFIX}" for name in FILE_SETTINGS)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def describe() -> list[tuple[str, str, str]]:
    """Every variable with its default and its meaning, for people."""
    hints = get_type_hints(Settings, include_extras=True)
    rows = []
    for field in fields(Settings):
        hint = hints[field.name]
        metas = (
            [m for m in get_args(hint)[1:] if isinstance(m, Meta)] if get_origin(hint) is Annotated else []
        )
        text = next((m.description for m in reversed(metas) if m.description), "")
        default = "" if field.name in SECRETS else str(field.default)
        rows.append((f"{PREFIX}{field.name.upper()}", default, text))
    return rows
