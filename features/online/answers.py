"""Answers as they go over the wire: values with event time, age and status, and on-demand features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from features.definitions import FEATURES, ON_DEMAND, REQUESTED, VIEW_OF, VIEWS
from features.online.result import Answer, Status, VectorRead
from features.vectors import named
from tocsin.clock import to_datetime
from tocsin.errors import InvalidRecordError
from tocsin.wire.features import FeatureRow, FeaturesAnswer, FeaturesBatchAnswer, FeatureValue, ViewRead

_ON_DEMAND = {feature.name: feature for feature in ON_DEMAND}


def is_known(answer: Answer, index: int) -> bool:
    """Whether anything was ever recorded about an entity."""
    return any(status is not Status.NEVER for status in answer.statuses(index))


def vector_of(answer: Answer, index: int) -> dict[str, float | None]:
    """All stored features of one entity by name; None where not defined."""
    return named(answer.vector(index))


def check_names(names: Sequence[str], requested: Mapping[str, float]) -> None:
    """Refuse names that are not stored features or request values.

    Raises:
        InvalidRecordError: names the first that is not.
    """
    for name in names:
        if name in _ON_DEMAND:
            raise InvalidRecordError(
                f"{name!r} is computed on demand: it comes with its values, without being named",
                field="features",
                limit=f"`values` of {', '.join(_ON_DEMAND[name].requested)}",
            )
        if name not in VIEW_OF:
            raise InvalidRecordError(
                f"{name[:128]!r} is not a stored feature",
                field="features",
                limit="a name from `tocsin features list`",
            )
    for name in requested:
        if name not in REQUESTED:
            raise InvalidRecordError(
                f"{name[:128]!r} is not a value that features ask for",
                field="values",
                limit=f"one of {', '.join(REQUESTED)}",
            )


def on_demand(vector: Mapping[str, float | None], requested: Mapping[str, float]) -> dict[str, float | None]:
    """The on-demand features whose request values were given; None where a stored one is not defined."""
    found: dict[str, float | None] = {}
    for feature in ON_DEMAND:
        if not all(name in requested for name in feature.requested):
            continue
        stored = {name: value for name in feature.stored if (value := vector[name]) is not None}
        complete = len(stored) == len(feature.stored)
        found[feature.name] = feature.compute({**stored, **requested}) if complete else None
    return found


def features_answer(
    answer: Answer, index: int, requested: Mapping[str, float], reason: str = ""
) -> FeaturesAnswer:
    """All features of one entity. `reason`: why the answer is degraded; empty: it is not."""
    vector = vector_of(answer, index)
    reads = {view.name: read for view, read in zip(VIEWS, answer.reads(index), strict=True)}
    features = {}
    for feature in FEATURES:
        view = VIEW_OF[feature.name].name
        read, value = reads[view], vector[feature.name]
        features[feature.name] = FeatureValue(
            value=value,
            unit=feature.unit,
            view=view,
            status=_status(read, value).value,
            event_time=None if read.event_time is None else to_datetime(read.event_time),
            age_s=read.age_s,
        )
    return FeaturesAnswer(
        advertiser_id=answer.advertiser_ids[index],
        as_of=to_datetime(answer.as_of),
        features=features,
        on_demand=on_demand(vector, requested),
        degraded=bool(reason),
        degraded_reason=reason,
    )


def features_batch_answer(
    answer: Answer, names: Sequence[str], requested: Mapping[str, float], reason: str = ""
) -> FeaturesBatchAnswer:
    """A row for each entity, with the stored features `names`; empty: all. `reason` as in `features_answer`."""
    rows = []
    for index, advertiser_id in enumerate(answer.advertiser_ids):
        vector = vector_of(answer, index)
        reads = zip(VIEWS, answer.reads(index), strict=True)
        rows.append(
            FeatureRow(
                advertiser_id=advertiser_id,
                values={name: vector[name] for name in names} if names else vector,
                views={view.name: _view(read) for view, read in reads},
                on_demand=on_demand(vector, requested) if requested else {},
            )
        )
    return FeaturesBatchAnswer(
        as_of=to_datetime(answer.as_of), rows=rows, degraded=bool(reason), degraded_reason=reason
    )


def _status(read: VectorRead, value: float | None) -> Status:
    if value is None and read.status is not Status.NEVER:
        return Status.MISSING
    return read.status


def _view(read: VectorRead) -> ViewRead:
    return ViewRead(
        status=read.status.value,
        age_s=read.age_s,
        event_time=None if read.event_time is None else to_datetime(read.event_time),
    )
