"""The part of both clients that is about churn; `tocsin.client` mixes it in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

from tocsin.client.calls import Call
from tocsin.client.flows import Flow, Flows
from tocsin.wire.churn import AtRiskAnswer, ChurnAnswer, ChurnBatchAnswer

T = TypeVar("T")


def _at_risk(limit: int) -> Call:
    return Call(method="GET", path="/v1/churn/at-risk", params={"limit": str(limit)})


class ChurnMethods(ABC):
    """For the blocking client."""

    _flows: Flows

    @abstractmethod
    def _run(self, flow: Flow[T]) -> T: ...

    def churn(self, advertiser_id: str, as_of: datetime | None = None) -> ChurnAnswer:
        """The chance that an advertiser leaves, now or as of an aware datetime."""
        return self._run(self._flows.about("churn", advertiser_id, ChurnAnswer, as_of))

    def churn_many(
        self, advertiser_ids: Iterable[str], as_of: datetime | None = None, *, drivers: bool = False
    ) -> ChurnBatchAnswer:
        """As `churn`, for many advertisers, 1,000 a request; what drives each only if asked for."""
        return self._run(self._flows.churn_many(advertiser_ids, as_of, drivers=drivers))

    def at_risk(self, limit: int = 20) -> AtRiskAnswer:
        """The active advertisers most likely to leave, up to 1,000, the likeliest first."""
        return self._run(self._flows.ask(_at_risk(limit), AtRiskAnswer))


class AsyncChurnMethods(ABC):
    """For the asyncio client."""

    _flows: Flows

    @abstractmethod
    async def _run(self, flow: Flow[T]) -> T: ...

    async def churn(self, advertiser_id: str, as_of: datetime | None = None) -> ChurnAnswer:
        """As `Client.churn`."""
        return await self._run(self._flows.about("churn", advertiser_id, ChurnAnswer, as_of))

    async def churn_many(
        self, advertiser_ids: Iterable[str], as_of: datetime | None = None, *, drivers: bool = False
    ) -> ChurnBatchAnswer:
        """As `Client.churn_many`."""
        return await self._run(self._flows.churn_many(advertiser_ids, as_of, drivers=drivers))

    async def at_risk(self, limit: int = 20) -> AtRiskAnswer:
        """As `Client.at_risk`."""
        return await self._run(self._flows.ask(_at_risk(limit), AtRiskAnswer))
