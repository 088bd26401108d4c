"""The guard of the models' rollouts, put together from the settings."""

from __future__ import annotations

from datetime import datetime

import msgspec

from features.online.store import FeatureStore
from launch.owner_alert import OwnerAlert
from models.registry.registry import Registry
from models.rollout.guard_loop import ACTOR, GuardLoop
from models.rollout.observation_store import ObservationStore
from tocsin.clock import Clock, SystemClock, to_epoch
from tocsin.settings import Settings
from tocsin.storage.servers import Servers


def open_guard(settings: Settings, servers: Servers, clock: Clock | None = None) -> GuardLoop:
    """A guard for this platform.

    Args:
        settings: Registry, namespace, whom to alert.
        servers: Storage.
        clock: Time.
    """
    clock = clock or SystemClock()
    store = FeatureStore(servers.main, namespace=settings.namespace)

    async def moment() -> float:
        """The "now" of features; with historical data, the newest event."""
        if settings.as_of == "now":
            return clock.now()
        if settings.as_of == "latest":
            return await store.latest() or 0.0
        return to_epoch(msgspec.convert(settings.as_of, datetime))

    return GuardLoop(
        Registry(settings.models_location, clock=clock, actor=ACTOR),
        ObservationStore(servers.main, namespace=settings.namespace),
        OwnerAlert(settings, servers, clock),
        moment,
        clock,
    )
