"""Models in an object store (S3, Google, Azure), through obstore.

| what            | how it is written                                                            |
|-----------------|------------------------------------------------------------------------------|
| a folder        | object by object; a mark comes last, and a folder without it is not listed   |
| a journal entry | one object, `journal/0000000042.json`, written only if there is none yet     |

    append(entry, after=41) ──put if absent──┬── written ──────────────────────────► True
                                             └── exists ──┬── with the same bytes ─► True: an answer that got lost
                                                          └── with others ─────────► False: another writer was first

The condition is the store's own (`If-None-Match: *`), so of two writers one wins whatever their clocks say.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

import httpx2
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from tocsin.errors import ConfigurationError, ModelUnavailableError
from tocsin.secrets import without_credentials

if TYPE_CHECKING:  # obstore has these for type checkers only
    from obstore import PutMode
    from obstore.store import AzureConfig, ClientConfig, GCSConfig, RetryConfig, S3Config
    from obstore.store import ObjectStore as Backend

READERS = 16
REGION_TIMEOUT_S = 5.0
REGION_URL = "https://s3.amazonaws.com"
_JOURNAL = "journal"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RETRY: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
_OPTIONS = {
    "s3": ("region", "endpoint_override", "scheme", "force_virtual_addressing"),
    "gs": ("endpoint_override", "scheme"),
    "az": (),
}
_KINDS = {"s3": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}


class ObjectStore:
    """Files and the journal below a prefix of an object store.

    Args:
        store: Where; any store of obstore that can write an object only if there is none.
        root: The prefix, without a slash at either end.
        place: Its name in errors; never holds credentials.

    Raises:
        ModelUnavailableError: by each method, where the store does not answer or refuses.
    """

    MARK = "complete"

    def __init__(self, store: Backend, root: str, place: str = "") -> None:
        self._store = store
        self._root = root
        self.place = place or root

    def read(self, path: str) -> bytes | None:
        """A file; None where there is none."""
        with self._translated(), suppress(FileNotFoundError):
            return bytes(obstore.get(self._store, f"{self._root}/{path}").bytes())
        return None

    def write_folder(self, folder: str, files: dict[str, bytes]) -> None:
        """Write a folder of files; the mark that makes it whole comes last. One that is whole is left as it is."""
        if self.read(f"{folder}/{self.MARK}") is not None:
            return
        for name, content in files.items():
            self._write(f"{folder}/{name}", content)
        self._write(f"{folder}/{self.MARK}", b"")

    def folders(self) -> list[str]:
        """All folders that are whole, by name."""
        return sorted(path.partition("/")[0] for path in self._paths("") if path.endswith(f"/{self.MARK}"))

    def remove(self, folder: str) -> None:
        """Remove a folder, its mark first."""
        mark = f"{folder}/{self.MARK}"
        for path in (mark, *(found for found in self._paths(folder) if found != mark)):
            with self._translated(), suppress(FileNotFoundError):
                obstore.delete(self._store, f"{self._root}/{path}")

    def last(self, after: int = 0) -> tuple[int, bytes] | None:
        """The newest entry with its number: from a listing at first, then by reading the next one."""
        number, found = after, None
        if after == 0 and (paths := self._paths(_JOURNAL)):
            number = max(int(path.rpartition("/")[2].partition(".")[0]) for path in paths)
            found = self.read(_entry(number))
        while (entry := self.read(_entry(number + 1))) is not None:
            number, found = number + 1, entry
        return None if found is None else (number, found)

    def entries(self) -> list[bytes]:
        """All entries, several read at a time."""
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(self.read, sorted(self._paths(_JOURNAL)))
            return [entry for entry in found if entry is not None]

    def append(self, entry: bytes, *, after: int) -> bool:
        """Make an entry the one after the first `after`. False: there is another, or entry `after` is missing."""
        if after and self.read(_entry(after)) is None:
            return False
        try:
            self._write(_entry(after + 1), entry, if_absent=True)
        except AlreadyExistsError:
            # A retried request may find what its own first try wrote.
            return self.read(_entry(after + 1)) == entry
        return True

    def _paths(self, folder: str) -> list[str]:
        """Every file below a folder, relative to the root."""
        prefix = f"{self._root}/{folder}".rstrip("/")
        with self._translated():
            found = [each["path"] for batch in obstore.list(self._store, prefix) for each in batch]
        return [path.removeprefix(f"{self._root}/") for path in found]

    def _write(self, path: str, content: bytes, *, if_absent: bool = False) -> None:
        try:
            with self._translated():
                mode: PutMode = "create" if if_absent else "overwrite"
                obstore.put(self._store, f"{self._root}/{path}", content, mode=mode)
        except FileNotFoundError as error:  # of a write: the bucket
            raise self._unavailable(error) from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what obstore raises into an error of ours, except for "not found" and "exists already"."""
        try:
            yield
        except (FileNotFoundError, AlreadyExistsError):
            raise
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from None  # the cause holds the whole request

    def _unavailable(self, error: Exception) -> ModelUnavailableError:
        return ModelUnavailableError(
            f"the model registry at {self.place} does not answer: {_summary(error)}",
            hint="check TOCSIN_MODELS_URL, the credentials and the network; loaded models go on serving",
        )


def connect(uri: str) -> tuple[Backend, str, str]:
    """The store a URI names, the prefix in it, and the URI without credentials, for messages. Sends no request to it.

        s3://[KEY:SECRET@]bucket[/prefix][?region=…&endpoint_override=host:port&scheme=http]
        gs://[anonymous@]bucket[/prefix]
        az://[account[:key]@]container[/prefix]             abfs:// and abfss:// as well
        abfs://container[:key]@account.dfs.core.windows.net[/prefix]

    What a URI leaves out is taken from the environment (`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`,
    `AZURE_STORAGE_ACCOUNT_NAME`, …), for S3 from `~/.aws/credentials`, or from the machine's role.

    Raises:
        ConfigurationError: the URI names no store.
        ModelUnavailableError: Amazon was asked for the bucket's region, and did not answer.
    """
    place = without_credentials(uri)
    scheme, _, rest = uri.partition("://")
    address, _, query = rest.partition("?")
    authority, _, prefix = address.partition("/")
    login, _, host = authority.rpartition("@")
    options = dict(parse_qsl(query, keep_blank_values=True))
    kind = _KINDS.get(scheme, "")
    problem = ""
    if not kind:
        problem = f"it is none of {', '.join(_KINDS)}"
    elif not _BUCKET.fullmatch(host):
        problem = "it names no bucket"
    elif re.search(r"\s", uri):
        problem = "it holds a space"
    elif unknown := set(options) - set(_OPTIONS[kind]):
        problem = f"{len(unknown)} of its options are none of {', '.join(_OPTIONS[kind]) or '(it has none)'}"
    if problem:
        raise ConfigurationError(f"TOCSIN_MODELS_URL: {place} is no place for models: {problem}")
    user, _, secret = (unquote(part) for part in login.partition(":"))
    try:
        if kind == "s3":
            store: Backend = _s3(host, user, secret, options, place)
        elif kind == "gs":
            store = _gs(host, user, options)
        else:
            store = _az(host, user, secret)
    except (BaseError, ValueError):  # their messages may quote the credentials
        problem = "its options or credentials are not valid"
        raise ConfigurationError(f"TOCSIN_MODELS_URL: {place} is no place for models: {problem}") from None
    return store, unquote(prefix).strip("/"), place


def _s3(bucket: str, key: str, secret: str, options: dict[str, str], place: str) -> Backend:
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = _endpoint(options)
    virtual = options.get("force_virtual_addressing", "" if endpoint else "true").lower() in {"true", "1"}
    config: S3Config = {
        "region": region or ("us-east-1" if endpoint else _region_of(bucket, place)),
        "virtual_hosted_style_request": virtual and "." not in bucket,  # a dot would not fit the certificate
    }
    if endpoint:
        config["endpoint"] = endpoint
    if key:
        config |= {"access_key_id": key, "secret_access_key": secret}
    elif not os.environ.get("AWS_ACCESS_KEY_ID"):
        config |= _shared_credentials()
    return S3Store(bucket, config=config, client_options=_client(options), retry_config=_RETRY)


def _shared_credentials() -> S3Config:
    """The keys of `AWS_PROFILE` (default: `default`) in `~/.aws/credentials`; none where the file has none."""
    path = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    profiles = configparser.ConfigParser(interpolation=None)
    try:
        profiles.read(path)
    except (OSError, configparser.Error, UnicodeDecodeError):  # its text may hold a key: say nothing of it
        return {}
    profile = os.environ.get("AWS_PROFILE") or "default"
    if not profiles.has_option(profile, "aws_access_key_id"):
        return {}
    keys = profiles[profile]
    config: S3Config = {
        "access_key_id": keys["aws_access_key_id"],
        "secret_access_key": keys.get("aws_secret_access_key", ""),
    }
    if token := keys.get("aws_session_token"):
        config["session_token"] = token
    return config


def _gs(bucket: str, user: str, options: dict[str, str]) -> Backend:
    config: GCSConfig = {}
    if endpoint := _endpoint(options):
        config["base_url"] = endpoint
    if user == "anonymous":
        config["skip_signature"] = True
    return GCSStore(bucket, config=config, client_options=_client(options), retry_config=_RETRY)


def _az(host: str, user: str, secret: str) -> Backend:
    is_endpoint = "." in host  # container@account.dfs.core.windows.net
    container, account = (user, host.partition(".")[0]) if is_endpoint else (host, user)
    config: AzureConfig = {}
    if account:
        config["account_name"] = account
    if secret:
        config["account_key"] = secret
    return AzureStore(container, config=config, client_options=_client({}), retry_config=_RETRY)


def _endpoint(options: dict[str, str]) -> str:
    host = options.get("endpoint_override", "")
    return f"{options.get('scheme') or 'https'}://{host}" if host else ""


def _client(options: dict[str, str]) -> ClientConfig:
    return {"allow_http": options.get("scheme") == "http", "connect_timeout": "3s", "timeout": "30s"}


def _region_of(bucket: str, place: str) -> str:
    """The region of a bucket, which Amazon tells anybody in a header, also with a refusal."""
    try:
        answer = httpx2.head(f"{REGION_URL}/{bucket}", timeout=REGION_TIMEOUT_S)
    except httpx2.HTTPError as error:
        raise ModelUnavailableError(
            f"the model registry at {place} does not answer: {type(error).__name__}, asked for its region",
            hint="add ?region=… to TOCSIN_MODELS_URL, or set AWS_REGION",
        ) from None
    return answer.headers.get("x-amz-bucket-region", "us-east-1")


def _summary(error: Exception) -> str:
    """The first line of an error and the code the store gave, without the query of a URL: it may be signed."""
    first, _, rest = str(error).partition("\n")
    first = re.sub(r"(https?://[^\s?]*)\?\S*", r"\1?…", re.sub(r"\s*<\?xml.*", "", first))
    code = re.search(r"<Code>(\w+)</Code>", rest)
    return f"{first} {code[1]}" if code else first


def _entry(number: int) -> str:
    return f"{_JOURNAL}/{number:010d}.json"
