"""The table of applications: what is deployed, under which path, with which bounds. A row and a class make one.

Each is its own ingress, one hop from the client. The documentation, the start of a platform and the builders derive
from the table; `ops/serve.yaml`, which names the builders, is checked against it:

    import_path: serve_deployments.applications:emergency_calls
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import msgspec
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from serve_deployments.activity import ActivityIntake
from serve_deployments.churn import Churn
from serve_deployments.dead_letters import DeadLetterApplication
from serve_deployments.emergency_calls import EmergencyCallIntake
from serve_deployments.features import Features
from serve_deployments.http.application import Application
from serve_deployments.http.deadlines import Deadlines
from serve_deployments.http.openapi import ApplicationTable, document
from serve_deployments.http.schema_facts import schema_facts
from serve_deployments.insights import Insights
from serve_deployments.notifications import Notifications
from serve_deployments.operations import Operations
from serve_deployments.recipients import Recipients
from serve_deployments.serving.handles import ChurnHandle, ShardHandles
from tocsin.settings import Settings

REPLICA_CPUS = 0.1  # logical: replicas mostly wait; autoscaling watches requests, not cores
CPUS_FOR_TWO = 4  # from here on the machine carries a second replica (250 MiB each) of what people wait for
ASKED_TWICE = Deadlines(read_s=1.3)
"""Of questions that the edge may put to a second replica, should the first not answer: both tries within 3 s."""


class ApplicationSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One application, and how it is run.

    A replica works on `max_ongoing` requests at once; `max_queued` more wait; past that it answers
    `shed_status` with `Retry-After`. 429 says "you send too fast", 503 "this part is busy". Nobody is held beyond its
    `deadlines`: the replica keeps them, and the edge a little later.
    """

    name: str
    prefix: str
    ingress: type[Application]
    arguments: Callable[[], tuple[Any, ...]] = tuple  # of the class: handles to other applications
    max_ongoing: int
    max_queued: int
    shed_status: int
    retry_after_s: float
    max_replicas: int
    target_ongoing: float
    deadlines: Deadlines = Deadlines()
    awaited: bool = False  # people wait for it: a second replica, where the machine carries one
    urgent: bool = False  # let in while connections are short

    @property
    def builder(self) -> str:
        """The name of its builder in this module."""
        return self.name.replace("-", "_")

    def build(self) -> serve.Application:
        """The application, bound to what its class is made with."""
        deployment = serve.deployment(**self.options())(serve.ingress()(self.bounded()))
        application: serve.Application = deployment.bind(*self.arguments())
        return application

    def bounded(self) -> type[Application]:
        """The ingress with this row's deadlines: replicas get the class, and not the table."""
        return type(self.ingress.__name__, (self.ingress,), {"deadlines": self.deadlines})

    def min_replicas(self, cpus: int) -> int:
        """How many run at least, on a machine with so many logical CPUs."""
        return 2 if self.awaited and cpus >= CPUS_FOR_TWO else 1

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
                min_replicas=self.min_replicas(os.cpu_count() or 1),
                max_replicas=self.max_replicas,
                target_ongoing_requests=self.target_ongoing,
                upscale_delay_s=5,
                downscale_delay_s=120,
            ),
            "ray_actor_options": {"num_cpus": REPLICA_CPUS},
            # A replica that hangs is left out by the edge within 5 s (`launch.ray_cluster`), and replaced after three.
            "health_check_period_s": 2,
            "health_check_timeout_s": 10,  # less would end replicas that only wait for a busy machine
            "graceful_shutdown_timeout_s": 10,
        }


# A send holds one round trip to storage, so a replica carries many; what senders overrun is shed at once, and a
# P0 sender that is shed tries again within a second. Questions are cheap to ask again: short queues.
APPLICATIONS: dict[str, ApplicationSpec] = {
    spec.name: spec
    for spec in (
        ApplicationSpec(
            name="notifications",
            prefix="/v1/notifications",
            ingress=Notifications,
            max_ongoing=64,
            max_queued=256,
            shed_status=429,
            retry_after_s=1,
            max_replicas=8,
            target_ongoing=24,
            deadlines=ASKED_TWICE,
            awaited=True,
            urgent=True,
        ),
        # Rare, and the last to be turned away: a call waits in a long queue rather than be shed.
        ApplicationSpec(
            name="emergency-calls",
            prefix="/v1/emergency-calls",
            ingress=EmergencyCallIntake,
            max_ongoing=64,
            max_queued=512,
            shed_status=503,
            retry_after_s=1,
            max_replicas=4,
            target_ongoing=16,
            deadlines=ASKED_TWICE,
            awaited=True,
            urgent=True,
        ),
        ApplicationSpec(
            name="dead-letters",
            prefix="/v1/dead-letters",
            ingress=DeadLetterApplication,
            max_ongoing=16,
            max_queued=32,
            shed_status=429,
            retry_after_s=2,
            max_replicas=1,
            target_ongoing=8,
        ),
        ApplicationSpec(
            name="recipients",
            prefix="/v1/recipients",
            ingress=Recipients,
            max_ongoing=16,
            max_queued=32,
            shed_status=429,
            retry_after_s=2,
            max_replicas=1,
            target_ongoing=8,
        ),
        ApplicationSpec(
            name="activity",
            prefix="/v1/activity",
            ingress=ActivityIntake,
            max_ongoing=32,
            max_queued=128,
            shed_status=429,
            retry_after_s=2,
            max_replicas=4,
            target_ongoing=12,
        ),
        ApplicationSpec(
            name="features",
            prefix="/v1/features",
            ingress=Features,
            arguments=lambda: (ShardHandles(),),
            max_ongoing=64,
            max_queued=128,
            shed_status=503,
            retry_after_s=1,
            max_replicas=4,
            target_ongoing=24,
        ),
        ApplicationSpec(
            name="churn",
            prefix="/v1/churn",
            ingress=Churn,
            max_ongoing=32,
            max_queued=64,
            shed_status=503,
            retry_after_s=1,
            max_replicas=4,
            target_ongoing=8,
            deadlines=ASKED_TWICE,
            awaited=True,
        ),
        ApplicationSpec(
            name="insights",
            prefix="/v1/insights",
            ingress=Insights,
            arguments=lambda: (ChurnHandle(),),
            max_ongoing=32,
            max_queued=64,
            shed_status=503,
            retry_after_s=1,
            max_replicas=4,
            target_ongoing=8,
            deadlines=ASKED_TWICE,
            awaited=True,
        ),
        ApplicationSpec(
            name="operations",
            prefix="/",
            ingress=Operations,
            arguments=lambda: (documentation(),),
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
        ApplicationTable(spec.name, spec.prefix, spec.ingress.endpoints, spec.shed_status)
        for spec in APPLICATIONS.values()
    )
    return document(tables, version=version("tocsin"), facts=schema_facts(Settings.from_env()))


def _builder(spec: ApplicationSpec) -> Callable[[dict[str, str]], serve.Application]:
    def build(_args: dict[str, str]) -> serve.Application:
        return spec.build()

    build.__name__ = build.__qualname__ = spec.builder
    build.__doc__ = f"`{spec.prefix}`."
    return build


# What a Serve config file names: `notifications`, `emergency_calls`, …
globals().update({spec.builder: _builder(spec) for spec in APPLICATIONS.values()})
