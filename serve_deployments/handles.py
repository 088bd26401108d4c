"""Deployment handles as plain coroutines, so that an application does not know how it reaches another."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.exceptions import RayTaskError

from tocsin.schemas import ChurnAnswer


class ChurnHandle:
    """The churn application of this cluster; found on the first question."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def __call__(self, advertiser_id: str, asked: float | None) -> ChurnAnswer:
        """One prediction.

        Raises:
            TocsinError: as `Churn.predict_one` raises it.
        """
        if self._handle is None:
            self._handle = serve.get_app_handle("churn")
        try:
            answer: ChurnAnswer = await self._handle.predict_one.remote(advertiser_id, asked)
        except RayTaskError as error:
            raise getattr(error, "cause", None) or error from None  # what the replica raised, unwrapped
        return answer
