"""`POST /v1/classifications`: which lane a notification would ride, and why. Nothing is sent."""

from __future__ import annotations

from starlette.requests import Request

from routing.intake.priority import Classifier
from serve_deployments.http.application import Endpoint
from serve_deployments.http.bodies import read_object
from tocsin.wire.classification import Classification, ClassificationRequest
from tocsin.wire.decoding import RecordDecoder

CLASSIFY = Endpoint(
    method="POST",
    path="/v1/classifications",
    handler="classify",
    summary="Which lane would it ride, and why?",
    description=(
        "Says for one notification the lane, the rule and the word that decided, the hazard it names, and whether a "
        "drill or a commercial use was recognised. Sends nothing. docs/classification.md explains the rules."
    ),
    request=ClassificationRequest,
    answer=Classification,
    problems=(401, 413, 415, 422),
)

_decoder = RecordDecoder(ClassificationRequest, lambda _request, _now: None)


async def classification_of(request: Request, classifier: Classifier) -> Classification:
    """Classify what a request describes.

    Raises:
        InvalidRecordError: it is not one JSON object with fields of a notification.
    """
    asked = await read_object(request, _decoder)
    return classifier.explain(
        asked.type, asked.alert_type, asked.severity, title=asked.title, priority=asked.priority
    )
