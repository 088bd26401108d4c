"""Faults planted in a churn model, and the server that runs with them.

| fault            | where                                                                                 |
|------------------|---------------------------------------------------------------------------------------|
| `labels_flipped` | the stored model: as trained on flipped labels, it says 1 - p                         |
| `feature_zeroed` | serving, from the canary on: one feature arrives as 0                                  |
| `miscalibrated`  | the stored model: its log odds are one and a half too high                            |
| `stale_features` | serving, from the canary on: features are older than they should be                   |
| `slow`           | serving, from the canary on: each call takes 0.3 s                                    |
| `erroring`       | serving, from the canary on: each call raises                                         |

What fails only in the canary is the harder case: no request may fail.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from multiprocessing.connection import Connection

import msgspec
import numpy as np
import uvloop
from starlette.types import Receive, Scope, Send

from models.dataset.inputs import INPUTS
from models.dataset.matrix import Floats
from models.prediction.churn import ChurnModel
from models.registry.registry import Registry
from models.training.card import TrainedModel
from serve_deployments.churn import Churn
from serve_deployments.serving.vector_reader import Rows, VectorReader
from tocsin.settings import Settings
from verification.servers import Prefixes, serve_until_closed

SLOW_S = 0.3
LOG_ODDS = 1.5
ZEROED = "active_weeks_12w"


class Fault(StrEnum):
    """What is wrong with a model."""

    LABELS_FLIPPED = "labels_flipped"
    FEATURE_ZEROED = "feature_zeroed"
    MISCALIBRATED = "miscalibrated"
    STALE_FEATURES = "stale_features"
    SLOW = "slow"
    ERRORING = "erroring"


IN_CANARY = frozenset({Fault.FEATURE_ZEROED, Fault.STALE_FEATURES, Fault.SLOW, Fault.ERRORING})


def spoiled(trained: TrainedModel, fault: Fault) -> TrainedModel:
    """A model as it would be stored with a fault; those of serving leave it as it is."""
    calibration = trained.card.calibration
    if fault is Fault.LABELS_FLIPPED:
        calibration = msgspec.structs.replace(
            calibration, slope=-calibration.slope, intercept=-calibration.intercept
        )
    elif fault is Fault.MISCALIBRATED:
        calibration = msgspec.structs.replace(calibration, intercept=calibration.intercept + LOG_ODDS)
    return replace(trained, card=msgspec.structs.replace(trained.card, calibration=calibration))


class Armed:
    """The active fault of this process; None: none."""

    fault: Fault | None = None


class Spoiled(ChurnModel):
    """A loaded model with a planted fault."""

    armed: Armed

    def _predict(self, raw: Floats) -> Floats:
        fault = self.armed.fault
        if fault is Fault.SLOW:
            time.sleep(SLOW_S)
        elif fault is Fault.ERRORING:
            raise ValueError("planted")
        return super()._predict(raw)


class SpoilingRegistry(Registry):
    """Loads every version but the first champion with what is planted."""

    def __init__(self, settings: Settings, armed: Armed) -> None:
        super().__init__(settings.models_location)
        self._armed = armed

    def load(self, version: str | None = None) -> ChurnModel:
        """As the registry, with a fault."""
        model = super().load(version)
        if model.version == self.head().lineup.challenger:
            model.__class__ = Spoiled
            model.armed = self._armed  # type: ignore[attr-defined]
        return model


class SpoiledVectors(VectorReader):
    """Vectors of shards that fell behind, or lost a feature."""

    armed: Armed

    async def read(self, advertiser_ids: Sequence[str], asked: float | None) -> Rows:
        """As the reader, with the active fault."""
        rows = await super().read(advertiser_ids, asked)
        if self.armed.fault is Fault.STALE_FEATURES:
            rows = replace(rows, stale=np.ones(len(rows.advertiser_ids), dtype=np.bool_))
        elif self.armed.fault is Fault.FEATURE_ZEROED:
            rows.raw[:, INPUTS.index(ZEROED)] = 0.0
        return rows


def churn_server(pipe: Connection, settings: Settings) -> None:
    """Serve `/v1/churn` until the pipe closes. Sends its port first; an order names the active fault, or none."""
    armed = Armed()
    app = Churn(settings, registry=SpoilingRegistry(settings, armed))
    vectors = SpoiledVectors(app.predictor.reader)
    vectors.armed = armed
    app.predictor.vectors = vectors

    def set_fault(order: str) -> None:
        armed.fault = Fault(order) if order else None

    asgi = Lifespan(app)
    uvloop.run(serve_until_closed(pipe, asgi, set_fault, lifespan="on"))


class Lifespan(Prefixes):
    """The application under its prefix, with its background tasks."""

    def __init__(self, app: Churn) -> None:
        self._asgi = app.__serve_build_asgi_app__()
        super().__init__({"/v1/churn": self._asgi})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request to its prefix; the start and the end to the application."""
        if scope["type"] == "lifespan":
            await self._asgi(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
