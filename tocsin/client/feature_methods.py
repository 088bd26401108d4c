"""The part of both clients that is about features; `tocsin.client` mixes it in, as `_recipient_methods`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TypeVar

from tocsin.client.calls import Call, ask_call
from tocsin.client.flows import Flow, Flows
from tocsin.wire.features import FeatureRow, FeaturesAnswer

T = TypeVar("T")


def _ask(advertiser_id: str, as_of: datetime | None, values: Mapping[str, float] | None) -> Call:
    return ask_call("features", advertiser_id, field="advertiser_id", as_of=as_of, values=values)


class FeatureMethods(ABC):
    """For the blocking client."""

    _flows: Flows

    @abstractmethod
    def _run(self, flow: Flow[T]) -> T: ...

    def features(
        self, advertiser_id: str, as_of: datetime | None = None, values: Mapping[str, float] | None = None
    ) -> FeaturesAnswer:
        """An advertiser's features, each with event time, age and status, now or as of an aware datetime.

        `values` of the question (`{"planned_budget": 500.0}`) add the on-demand features that stand on them.
        """
        return self._run(self._flows.ask(_ask(advertiser_id, as_of, values), FeaturesAnswer))

    def features_many(
        self,
        advertiser_ids: Iterable[str],
        features: Iterable[str] = (),
        *,
        values: Mapping[str, float] | None = None,
        as_of: datetime | None = None,
    ) -> list[FeatureRow]:
        """As `features` for many advertisers, 1,000 a request: a row each, in their order, repeats once a request.

        An advertiser without any activity has a row as well, with the status `never`. `features` names those wanted;
        all without it.
        """
        return self._run(self._flows.features_many(advertiser_ids, features, values, as_of))


class AsyncFeatureMethods(ABC):
    """For the asynchronous client."""

    _flows: Flows

    @abstractmethod
    async def _run(self, flow: Flow[T]) -> T: ...

    async def features(
        self, advertiser_id: str, as_of: datetime | None = None, values: Mapping[str, float] | None = None
    ) -> FeaturesAnswer:
        """As `Client.features`."""
        return await self._run(self._flows.ask(_ask(advertiser_id, as_of, values), FeaturesAnswer))

    async def features_many(
        self,
        advertiser_ids: Iterable[str],
        features: Iterable[str] = (),
        *,
        values: Mapping[str, float] | None = None,
        as_of: datetime | None = None,
    ) -> list[FeatureRow]:
        """As `Client.features_many`."""
        return await self._run(self._flows.features_many(advertiser_ids, features, values, as_of))
