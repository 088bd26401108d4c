"""Providers of the channels that reach a person: an operator's accounts, spoken to by the Apprise library.

A provider is an Apprise URL with `{target}` where the recipient's address goes:

    TOCSIN_SMS_PROVIDERS="twilio://SID:TOKEN@+15550100/{target} vonage://KEY:SECRET@TOCSIN/{target}"

The operator alone says which hosts are called: a recipient's address may hold nothing that ends an address in a URL.
Apprise blocks, so each call has a thread of a bounded pool, and gives it back when the call has really ended. Its own
pool is not used: all services of a process share that one, and one that hangs would hold up the others.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import apprise

from routing.channels import Deliverable, Failure, FailureReason
from routing.channels.addresses import is_one_address
from tocsin.errors import ConfigurationError
from tocsin.resilience.retry import RETRYABLE_STATUSES
from tocsin.wire.notifications import Notification

TARGET = "{target}"
MAX_THREADS = 8
TIMEOUT_S = 10.0

_SAMPLE = "15550100"
_STATUS = re.compile(r"error=(\d{3})\b")
_KINDS: dict[str, apprise.NotifyType] = {
    "Extreme": apprise.NotifyType.FAILURE,
    "Severe": apprise.NotifyType.FAILURE,
}


class _Statuses(logging.Handler):
    """The last HTTP status that Apprise logged in this thread: `notify` returns only success or failure."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.here = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the status alone: the text may hold credentials."""
        if found := _STATUS.search(record.getMessage()):
            self.here.last = int(found[1])


_statuses = _Statuses()


class AppriseProvider:
    """One account of one service.

    Args:
        channel: Whose address a recipient must have.
        template: An Apprise URL, with or without `{target}`.
        name: Unique among the providers of a lane.
        timeout_s: Deadline of one call, waiting for a thread included.

    Raises:
        ConfigurationError: Apprise does not know such a URL. The message does not show it: it holds credentials.
    """

    def __init__(self, channel: str, template: str, *, name: str, timeout_s: float = TIMEOUT_S) -> None:
        self.name = name
        self.max_calls = MAX_THREADS
        self._channel = channel
        self._template = template
        self._timeout_s = timeout_s
        self._asset = apprise.AppriseAsset(app_id="Tocsin", async_mode=False, storage_mode="memory")
        if apprise.Apprise.instantiate(template.replace(TARGET, _SAMPLE), asset=self._asset) is None:
            scheme = template.partition("://")[0][:16]
            raise ConfigurationError(
                f"TOCSIN_{channel.upper()}_PROVIDERS: Apprise cannot use the {scheme}:// URL",
                hint="see https://github.com/caronc/apprise/wiki for what each service needs",
            )
        apprise.logger.addHandler(_statuses)  # added once, however many providers there are
        apprise.logger.propagate = False
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix=f"apprise-{name}")
        self._free = asyncio.Semaphore(MAX_THREADS)

    def calls(self, batch: Sequence[Deliverable]) -> Sequence[Sequence[int]]:
        """A call each."""
        return [[place] for place in range(len(batch))]

    def host(self, items: Sequence[Deliverable]) -> str:  # noqa: ARG002 (the port's)
        """None of the sender's."""
        return ""

    def retry_after(self, items: Sequence[Deliverable]) -> float:  # noqa: ARG002 (the port's)
        """Not known: Apprise does not pass on what a service answers."""
        return 0.0

    async def call(self, items: Sequence[Deliverable]) -> Failure | None:
        """One notification to one address."""
        url = self._template
        if TARGET in url:
            target = items[0].target(self._channel)
            if isinstance(target, Failure):
                return target
            if not is_one_address(target):
                return Failure(
                    FailureReason.FORBIDDEN_TARGET, "the recipient's address is more than an address"
                )
            url = url.replace(TARGET, quote(target, safe=""))
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._free.acquire()
                ended = asyncio.get_running_loop().run_in_executor(
                    self._threads, self._send, url, items[0].notification
                )
                ended.add_done_callback(lambda _: self._free.release())
                # A thread cannot be stopped: after the deadline it goes on, and its slot stays taken.
                return await asyncio.shield(ended)
        except TimeoutError:
            return Failure(FailureReason.TIMEOUT, f"no answer within {self._timeout_s:g} s")

    def _send(self, url: str, notification: Notification) -> Failure | None:
        """In a thread."""
        service = apprise.Apprise.instantiate(url, asset=self._asset)
        if service is None:
            return Failure(
                FailureReason.FORBIDDEN_TARGET, "the recipient's address is not one for this service"
            )
        _statuses.here.last = 0
        if service.notify(
            body=notification.body or notification.title,
            title=notification.title,
            notify_type=_KINDS.get(notification.severity, apprise.NotifyType.WARNING),
        ):
            return None
        status = _statuses.here.last
        if not status:
            return Failure(FailureReason.UNREACHABLE, "the service did not take it")
        final = 400 <= status < 500 and status not in RETRYABLE_STATUSES
        reason = FailureReason.REFUSED if final else FailureReason.TARGET_ERROR
        return Failure(reason, f"the service answered {status}")

    async def close(self) -> None:
        """Take no more; calls that hang end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
