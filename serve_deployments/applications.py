"""The Serve applications: what is deployed, under which path, with which bounds.

Each is its own ingress, one hop from the client. The builders at the end are what a Serve config file names:

    import_path: serve_deployments.applications:notifications
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import msgspec
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from serve_deployments.activity import ActivityIntake
from serve_deployments.churn import Churn
from serve_deployments.dead_letters import DeadLetters
from serve_deployments.emergency_calls import EmergencyCallIntake
from serve_deployments.features import Features
from serve_deployments.http.openapi import document
from serve_deployments.insights import Insights
from serve_deployments.notifications import Notifications
from serve_deployments.operations import Operations
from serve_deployments.recipients import Recipients
from serve_deployments.serving.handles import ChurnHandle, ShardHandles

REPLICA_CPUS = 0.1  # logical: replicas mostly wait; autoscaling watches requests, not cores


class DeploymentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How one application is run.

    A replica works on `max_ongoing` requests at once; `max_queued` more wait; past that it answers
    `shed_status` with `Retry-After`. 429 says "you send too fast", 503 "this part is busy".
    """

    name: str
    prefix: str
    max_ongoing: int
    max_queued: int
    shed_status: int
    retry_after_s: float
    min_replicas: int = 1
    max_replicas: int
    target_ongoing: float

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `serve.deployment`."""
        return {
            "name": self.name,
            "max_ongoing_requests": self.max_ongoing,
            "max_queued_requests": self.max_queued,
            "backpressure_config": BackpressureConfig(
                status_code=429 if self.shed_status == 429 else 503, retry_after_s=self.retry_after_s
            ),
            "autoscaling_config": AutoscalingConfig(
                min_replicas=self.min_replicas,
                max_replicas=self.max_replicas,
                target_ongoing_requests=self.target_ongoing,
                upscale_delay_s=5,
                downscale_delay_s=120,
            ),
            "ray_actor_options": {"num_cpus": REPLICA_CPUS},
            "health_check_period_s": 5,
            "health_check_timeout_s": 10,
            "graceful_shutdown_timeout_s": 10,
        }


# A send holds one round trip to storage, so a replica carries many; what senders overrun is shed at once, and a
# P0 sender that is shed tries again within a second. Questions are cheap to ask again: short queues.
SPECS: dict[str, DeploymentSpec] = {
    spec.name: spec
    for spec in (
        DeploymentSpec(
            name="notifications",
            prefix="/v1/notifications",
            max_ongoing=64,
            max_queued=256,
            shed_status=429,
            retry_after_s=1,
            max_replicas=8,
            target_ongoing=24,
        ),
        # Rare, and the last to be turned away: a call waits in a long queue rather than be shed.
        DeploymentSpec(
            name="emergency-calls",
            prefix="/v1/emergency-calls",
            max_ongoing=64,
            max_queued=512,
            shed_status=503,
            retry_after_s=1,
            max_replicas=4,
            target_ongoing=16,
        ),
        DeploymentSpec(
            name="activity",
            prefix="/v1/activity",
            max_ongoing=32,
            max_queued=128,
            shed_status=429,
            retry_after_s=2,
            max_replicas=4,
            target_ongoing=12,
        ),
        DeploymentSpec(
            name="features",
            prefix="/v1/features",
            max_ongoing=64,
            max_queued=128,
            shed_status=503,
            retry_after_s=1,
            max_replicas=4,
            target_ongoing=24,
        ),
        DeploymentSpec(
            name="churn",
            prefix="/v1/churn",
            max_ongoing=32,
            max_queued=64,
            shed_status=503,
            retry_after_s=1,
            max_replicas=4,
            target_ongoing=8,
        ),
        DeploymentSpec(
            name="insights",
            prefix="/v1/insights",
            max_ongoing=32,
            max_queued=64,
            shed_status=503,
            retry_after_s=1,
            max_replicas=4,
            target_ongoing=8,
        ),
        DeploymentSpec(
            name="dead-letters",
            prefix="/v1/dead-letters",
            max_ongoing=16,
            max_queued=32,
            shed_status=429,
            retry_after_s=2,
            max_replicas=1,
            target_ongoing=8,
        ),
        DeploymentSpec(
            name="recipients",
            prefix="/v1/recipients",
            max_ongoing=16,
            max_queued=32,
            shed_status=429,
            retry_after_s=2,
            max_replicas=1,
            target_ongoing=8,
        ),
        DeploymentSpec(
            name="operations",
            prefix="/",
            max_ongoing=32,
            max_queued=64,
            shed_status=503,
            retry_after_s=1,
            max_replicas=1,
            target_ongoing=16,
        ),
    )
}


def documentation() -> dict[str, Any]:
    """The OpenAPI document of all applications."""
    tables = (
        ("notifications", Notifications.endpoints),
        ("emergency-calls", EmergencyCallIntake.endpoints),
        ("dead-letters", DeadLetters.endpoints),
        ("recipients", Recipients.endpoints),
        ("activity", ActivityIntake.endpoints),
        ("features", Features.endpoints),
        ("churn", Churn.endpoints),
        ("insights", Insights.endpoints),
        ("operations", Operations.endpoints),
    )
    return document(((name, SPECS[name].prefix, table) for name, table in tables), version=version("tocsin"))


def _application(name: str, ingress: Callable[..., Any], *args: Any) -> serve.Application:
    deployment = serve.deployment(**SPECS[name].options())(serve.ingress()(ingress))
    application: serve.Application = deployment.bind(*args)
    return application


def notifications(_args: dict[str, str]) -> serve.Application:
    """`/v1/notifications`."""
    return _application("notifications", Notifications)


def emergency_calls(_args: dict[str, str]) -> serve.Application:
    """`/v1/emergency-calls`."""
    return _application("emergency-calls", EmergencyCallIntake)


def activity(_args: dict[str, str]) -> serve.Application:
    """`/v1/activity`."""
    return _application("activity", ActivityIntake)


def features(_args: dict[str, str]) -> serve.Application:
    """`/v1/features`."""
    return _application("features", Features, ShardHandles())


def churn(_args: dict[str, str]) -> serve.Application:
    """`/v1/churn`."""
    return _application("churn", Churn)


def insights(_args: dict[str, str]) -> serve.Application:
    """`/v1/insights`."""
    return _application("insights", Insights, ChurnHandle())


def dead_letters(_args: dict[str, str]) -> serve.Application:
    """`/v1/dead-letters`."""
    return _application("dead-letters", DeadLetters)


def recipients(_args: dict[str, str]) -> serve.Application:
    """`/v1/recipients`."""
    return _application("recipients", Recipients)


def operations(_args: dict[str, str]) -> serve.Application:
    """Health, status and documentation."""
    return _application("operations", Operations, documentation())


BUILDERS: dict[str, Callable[[dict[str, str]], serve.Application]] = {
    "notifications": notifications,
    "emergency-calls": emergency_calls,
    "activity": activity,
    "features": features,
    "churn": churn,
    "insights": insights,
    "dead-letters": dead_letters,
    "recipients": recipients,
    "operations": operations,
}
