"""The part of both clients that is about recipients: what each method asks, and the method.

`tocsin.client` mixes these in; they need its `_flows` and its way to run a flow, and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

from tocsin.client.calls import Call, encode_record, notification_given, recipient_call, recipients_call
from tocsin.client.flows import Flow, Flows
from tocsin.wire.recipients import Recipient, RecipientPage, RecipientRemoved, RecipientRequest

T = TypeVar("T")
RecipientLike = RecipientRequest | Mapping[str, Any]


def _put(name: str, preferences: RecipientLike | None, fields: dict[str, Any]) -> Call:
    body = encode_record(notification_given(preferences, fields), RecipientRequest)
    return recipient_call("PUT", name, body)


class RecipientMethods(ABC):
    """For the blocking client."""

    _flows: Flows

    @abstractmethod
    def _run(self, flow: Flow[T]) -> T: ...

    def recipient(self, id: str) -> Recipient:  # noqa: A002 - the wire's own word
        """How a recipient wants to be told; its targets are masked. `NotFoundError` when nothing is kept."""
        return self._run(self._flows.ask(recipient_call("GET", id), Recipient))

    def set_recipient(self, id: str, preferences: RecipientLike | None = None, /, **fields: Any) -> Recipient:  # noqa: A002
        """Say how a recipient wants to be told, by a struct, a mapping or fields; it replaces what was kept.

        A target sent as `***` (as it is answered) stays as it was.
        """
        return self._run(self._flows.ask(_put(id, preferences, fields), Recipient))

    def remove_recipient(self, id: str) -> RecipientRemoved:  # noqa: A002
        """Forget how a recipient wants to be told."""
        return self._run(self._flows.ask(recipient_call("DELETE", id), RecipientRemoved))

    def recipients(self, after: str = "", limit: int = 50) -> RecipientPage:
        """Recipients in the order of their ids: at most `limit` (up to 500), those after an id."""
        return self._run(self._flows.ask(recipients_call(after, limit), RecipientPage))


class AsyncRecipientMethods(ABC):
    """For the asyncio client."""

    _flows: Flows

    @abstractmethod
    async def _run(self, flow: Flow[T]) -> T: ...

    async def recipient(self, id: str) -> Recipient:  # noqa: A002
        """As `Client.recipient`."""
        return await self._run(self._flows.ask(recipient_call("GET", id), Recipient))

    async def set_recipient(
        self,
        id: str,  # noqa: A002
        preferences: RecipientLike | None = None,
        /,
        **fields: Any,
    ) -> Recipient:
        """As `Client.set_recipient`."""
        return await self._run(self._flows.ask(_put(id, preferences, fields), Recipient))

    async def remove_recipient(self, id: str) -> RecipientRemoved:  # noqa: A002
        """As `Client.remove_recipient`."""
        return await self._run(self._flows.ask(recipient_call("DELETE", id), RecipientRemoved))

    async def recipients(self, after: str = "", limit: int = 50) -> RecipientPage:
        """As `Client.recipients`."""
        return await self._run(self._flows.ask(recipients_call(after, limit), RecipientPage))
