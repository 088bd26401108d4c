from __future__ import annotations

import pytest
from redis import exceptions as redis_errors
from redis.asyncio.client import Pipeline

from tocsin.errors import OverloadedError, StorageUnavailableError
from tocsin.storage.errors import translate


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", OverloadedError),
        ("READONLY You can't write against a read only replica.", StorageUnavailableError),
    ],
)
def test_an_error_in_a_pipeline_shows_nothing_of_what_was_to_be_written(
    said: str, kind: type[Exception]
) -> None:
    """The driver names the command with its arguments: a recipient's id, a title."""
    error = redis_errors.ResponseError(said)
    command = ("SET", "recipient:+491701234567", "a title (with) of pipeline caused error: \n in it")
    Pipeline.annotate_exception(None, error, 2, command)  # type: ignore[arg-type]
    assert "+491701234567" in str(error)
    found = translate(error)
    assert isinstance(found, kind)
    assert "+491701234567" not in found.message
    assert "title" not in found.message
    if kind is StorageUnavailableError:
        assert found.message == f"storage is unavailable: {said}"
