from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from features.offline.point_in_time import event_frame
from features.simulator import simulate
from models.prediction.churn import ChurnModel
from models.registry.registry import Registry
from models.training.card import TrainedModel
from models.training.training import train

NOW = datetime(2026, 11, 24, 7, 5, 1, tzinfo=UTC)
END = datetime(2026, 11, 22, tzinfo=UTC).timestamp()


@pytest.fixture(scope="session")
def events() -> pd.DataFrame:
    return event_frame(simulate(120, 40, 7, end=END).activities)


@pytest.fixture(scope="session")
def trained(events: pd.DataFrame) -> TrainedModel:
    return train(events, now=NOW.timestamp())


@pytest.fixture
def model(trained: TrainedModel) -> ChurnModel:
    return ChurnModel(trained.estimator, trained.card, "v1")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)
