"""Reads as they go over the wire: values with event time, age and status, and what is computed at the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from features.definitions import FEATURES, ON_DEMAND, REQUESTED, VIEW_OF, VIEWS
from features.online.result import Answer, Status, VectorRead
from features.vectors import named
from tocsin.clock import to_datetime
from tocsin.errors import InvalidRecordError
from tocsin.wire.features import FeatureRow, FeaturesAnswer, FeaturesBatchAnswer, FeatureValue, ViewRead

DEMANDED = {feature.name: feature for feature in ON_DEMAND}


def is_known(answer: Answer, place: int) -> bool:
    """Whether anybody ever told us of an entity."""
    return any(status is not Status.NEVER for status in answer.statuses(place))


def vector_of(answer: Answer, place: int) -> dict[str, float | None]:
    """All stored features of one entity by name; None where not defined."""
    return named(answer.vector(place))


def check_names(names: Sequence[str], requested: Mapping[str, float]) -> None:
    """Whether all of these are features and request values.

    Raises:
        InvalidRecordError: names the one that is not.
    """
    for name in names:
        if name in DEMANDED:
            raise InvalidRecordError(
                f"{name!r} is computed on demand: it comes with its values, without being named",
                field="features",
                limit=f"`values` of {', '.join(DEMANDED[name].requested)}",
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


def one(answer: Answer, place: int, requested: Mapping[str, float], reason: str = "") -> FeaturesAnswer:
    """Everything about one entity. `why` it is degraded, if it is."""
    vector = vector_of(answer, place)
    reads = {view.name: read for view, read in zip(VIEWS, answer.reads(place), strict=True)}
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
        advertiser_id=answer.advertiser_ids[place],
        as_of=to_datetime(answer.as_of),
        features=features,
        on_demand=on_demand(vector, requested),
        degraded=bool(reason),
        degraded_reason=reason,
    )


def many(
    answer: Answer, names: Sequence[str], requested: Mapping[str, float], reason: str = ""
) -> FeaturesBatchAnswer:
    """A row for each entity; `names` of stored features, empty for all."""
    rows = []
    for place, advertiser_id in enumerate(answer.advertiser_ids):
        vector = vector_of(answer, place)
        reads = zip(VIEWS, answer.reads(place), strict=True)
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
