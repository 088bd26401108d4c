"""Feast's side of `python -m benchmarks.features`; runs in Feast's own environment, driven through its pipes.

Each line on standard input is an order in JSON, each line on standard output its answer:

    {"order": "load", "advertisers": n, "features": m, "seed": s} -> {"loaded": n, "feast": "0.67.0"}
    {"order": "read", "batch": b, "reads": r, "seed": s}          -> {"ms": [...]}, one `get_online_features` each
    {"order": "join", "events": path, "labels": path}             -> {"rows": n, "seconds": s}

The server's address and password come in PEERS_REDIS, the folder for the registry in PEERS_FOLDER. The offline
store is Feast's default for files. It computes no windows: it finds the newest event before each label.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("FEAST_USAGE", "False")
warnings.filterwarnings("ignore")

import feast  # noqa: E402 (reads the environment when imported)
import pandas as pd  # noqa: E402
from feast import (  # noqa: E402
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    ValueType,
)
from feast.types import Float64  # noqa: E402

FOLDER = Path(os.environ["PEERS_FOLDER"])
ENTITY = Entity(name="advertiser", join_keys=["advertiser_id"], value_type=ValueType.STRING)


def advertiser(number: int) -> str:
    """The ids both sides use."""
    return f"bench-{number:06d}"


class Feast:
    """One store, and what was loaded into it."""

    def __init__(self) -> None:
        self._store = FeatureStore(
            config=RepoConfig(
                project="bench",
                provider="local",
                registry=str(FOLDER / "registry.db"),
                online_store={"type": "redis", "connection_string": os.environ["PEERS_REDIS"]},
                offline_store={"type": "dask"},
                entity_key_serialization_version=3,
            )
        )
        self._features: list[str] = []
        self._advertisers = 0

    def load(self, advertisers: int, features: int, seed: int) -> dict[str, Any]:
        """One view of so many float features for each advertiser."""
        draw = random.Random(seed)  # noqa: S311 - made-up data
        names = [f"feature_{number:02d}" for number in range(features)]
        rows = {name: [draw.random() * 1e4 for _ in range(advertisers)] for name in names}
        now = datetime.now(tz=UTC)
        frame = pd.DataFrame(
            {"advertiser_id": [advertiser(n) for n in range(advertisers)], "event_timestamp": now, **rows}
        )
        path = FOLDER / "online.parquet"
        frame.to_parquet(path)
        view = FeatureView(
            name="online",
            entities=[ENTITY],
            ttl=timedelta(days=1),
            schema=[Field(name=name, dtype=Float64) for name in names],
            source=FileSource(path=str(path), timestamp_field="event_timestamp"),
        )
        self._store.apply([ENTITY, view])
        self._store.write_to_online_store("online", frame)
        self._features = [f"online:{name}" for name in names]
        self._advertisers = advertisers
        return {"loaded": advertisers, "feast": feast.__version__}

    def read(self, batch: int, reads: int, seed: int) -> dict[str, Any]:
        """Latencies of `get_online_features(...).to_dict()`, each of so many advertisers, in ms."""
        draw = random.Random(seed)  # noqa: S311 - made-up data
        took = []
        for _ in range(reads):
            rows = [
                {"advertiser_id": advertiser(number)}
                for number in draw.sample(range(self._advertisers), batch)
            ]
            began = time.perf_counter()
            answer = self._store.get_online_features(features=self._features, entity_rows=rows).to_dict()
            took.append((time.perf_counter() - began) * 1000)
            if any(value is None for value in answer["feature_00"]):
                raise RuntimeError("Feast did not find what was loaded")
        return {"ms": took}

    def join(self, events: str, labels: str) -> dict[str, Any]:
        """`get_historical_features` of every label row against a file of events."""
        view = FeatureView(
            name="offline",
            entities=[ENTITY],
            ttl=timedelta(days=3650),
            schema=[Field(name="amount", dtype=Float64)],
            source=FileSource(path=events, timestamp_field="event_timestamp"),
        )
        self._store.apply([ENTITY, view])
        wanted = pd.read_parquet(labels)
        began = time.perf_counter()
        found = self._store.get_historical_features(entity_df=wanted, features=["offline:amount"]).to_df()
        seconds = time.perf_counter() - began
        if len(found) < 0.9 * len(wanted):  # it drops rows without an event before them
            raise RuntimeError(f"{len(found)} rows for {len(wanted)} labels")
        return {"rows": len(wanted), "seconds": seconds}


def main() -> None:
    """Carry out orders until standard input closes. What libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    store = Feast()
    for line in sys.stdin:
        order = json.loads(line)
        act = getattr(store, order.pop("order"))
        with contextlib.redirect_stdout(sys.stderr):
            answer = act(**order)
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
