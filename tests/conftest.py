from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path

# Ray reads these once, when it is first imported: before any test module is.
_TOKEN = Path(tempfile.mkdtemp(prefix="tocsin-tests-")) / "token"
_TOKEN.write_text(secrets.token_hex(32), encoding="ascii")
_TOKEN.chmod(0o600)
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN_PATH": str(_TOKEN),
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
}

import hypothesis
import pytest

from tests.fakes import ManualClock

pytest_plugins = ["tests.platform_fixtures"]

# No deadline and no folder of examples: a shared machine is slow at times, and a run must not depend on the last one.
hypothesis.settings.register_profile("tocsin", deadline=None, database=None, max_examples=60)
hypothesis.settings.load_profile("tocsin")


def pytest_unconfigure() -> None:
    """Runs in every process that loaded this file, helpers of a parallel run included."""
    shutil.rmtree(_TOKEN.parent, ignore_errors=True)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
