"""Secrets: where they come from besides the environment, and how a place that holds one is shown.

TOCSIN_API_KEY=…            or   TOCSIN_API_KEY_FILE=/run/secrets/api_key
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tocsin.errors import ConfigurationError

FILE_SUFFIX = "_FILE"
MAX_SECRET_BYTES = 65_536
_END_OF_HOST = re.compile(r"[/?#]")


def read_secret(variable: str, environ: Mapping[str, str]) -> str:
    """The value of a variable, or of the file that `<variable>_FILE` names; empty where neither is set.

    The newline at the end of a file is not a part of the secret.

    Raises:
        ConfigurationError: both are set, or the file cannot be read, is empty, too large or not text. The message
            names the variable and the file and shows nothing of what it holds.
    """
    value, file = environ.get(variable, ""), environ.get(variable + FILE_SUFFIX, "")
    if not file:
        return value
    if value:
        raise ConfigurationError(
            f"{variable} and {variable}{FILE_SUFFIX} are both set", hint="unset one of the two"
        )
    where = f"{variable}{FILE_SUFFIX}: {file}"
    try:
        with Path(file).expanduser().open("rb") as opened:
            raw = opened.read(MAX_SECRET_BYTES + 1)
        text = raw.decode()
    except OSError as error:
        raise ConfigurationError(
            f"{where} cannot be read: {error.strerror or type(error).__name__}",
            hint="is the secret mounted, and may this user read it?",
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{where} is not UTF-8 text") from None
    if len(raw) > MAX_SECRET_BYTES:
        raise ConfigurationError(f"{where} is larger than {MAX_SECRET_BYTES:,} bytes")
    text = text.rstrip("\r\n")
    if not text:
        raise ConfigurationError(f"{where} is empty", hint="put the secret in, or unset the variable")
    if "\0" in text:
        raise ConfigurationError(f"{where} holds a NUL character")
    return text


def without_credentials(location: str) -> str:
    """A folder or a URI for people: without user, password, query and fragment; each may hold a secret."""
    scheme, is_uri, rest = location.partition("://")
    if not is_uri:
        return location
    before, at, place = rest.rpartition("@")
    if "?" in before or "#" in before:  # no telling where a secret ends
        return f"{scheme}://…"
    shown = re.split(r"[?#]", place, maxsplit=1)
    return f"{scheme}://{'***@' if at else ''}{shown[0]}{'?…' if len(shown) > 1 else ''}"


def without_path(url: str) -> str:
    """A URL for people, of which the path may be a secret as well: its scheme and host."""
    scheme, is_url, rest = without_credentials(url).partition("://")
    if not is_url:
        return "…"
    host, *more = _END_OF_HOST.split(rest, maxsplit=1)
    return f"{scheme}://{host}{'/…' if more else ''}"
