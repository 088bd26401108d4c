"""What is secret in an answer, masked so that one still sees that there is something, and where it points."""

from __future__ import annotations

from urllib.parse import urlsplit

MAX_HOST = 253  # characters, of a name
MASK = "***"  # stands for a secret in answers; sent back, it means: as it was


def masked_url(url: str) -> str:
    """A URL with its scheme, host and port alone: user, path, query and fragment may each hold a token."""
    scheme = url.partition("://")[0]
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # a port or an IPv6 address that is none
        return f"{scheme}://{MASK}/{MASK}"
    if not host or len(host) > MAX_HOST:
        return f"{scheme}://{MASK}/{MASK}"
    if parts.path in {"", "/"} and not (parts.query or parts.fragment or parts.username or parts.password):
        return url  # there is nothing to hide
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}{f':{port}' if port else ''}/{MASK}"
