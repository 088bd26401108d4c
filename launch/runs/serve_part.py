"""Ray Serve's part of a start: every application is deployed, and waited for."""

from __future__ import annotations

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from tocsin.errors import StorageUnavailableError
from tocsin.settings import Settings

Say = Callable[[str, str], None]
"""Called with a part's name and a line about it."""


def deploy(settings: Settings, say: Say) -> None:
    """Start Serve and deploy all applications in one step. Imports Ray."""
    from ray import serve
    from ray.serve.config import HTTPOptions

    from serve_deployments.applications import APPLICATIONS

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # our own lines say what came up
    serve.start(
        http_options=HTTPOptions(host=settings.host, port=settings.port),
        proxy_location="HeadOnly",
    )
    targets = [
        serve.RunTarget(target=spec.build(), name=name, route_prefix=spec.prefix)
        for name, spec in APPLICATIONS.items()
    ]
    serve.run_many(targets)
    for name, spec in APPLICATIONS.items():
        say(f"app {name}", settings.base_url + spec.prefix)


def await_ready(settings: Settings, say: Say, *, timeout_s: float) -> None:
    """Wait until `/readyz` answers 200.

    Raises:
        StorageUnavailableError: it did not in time; says what it answered last.
    """
    deadline = time.monotonic() + timeout_s
    detail = "no answer"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{settings.base_url}/readyz", timeout=5):  # noqa: S310 (our own URL)
                say("ready", f"{settings.base_url}  (documentation: {settings.base_url}/docs)")
                return
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")[:500]
        except OSError as error:
            detail = str(error)
        time.sleep(0.1)
    raise StorageUnavailableError(f"the platform did not become ready within {timeout_s:g} s: {detail}")
