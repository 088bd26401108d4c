"""What pool members and the supervisor are made of: the one place where the rooms meet.

Ray finds these functions by their names, so they are passed to actors as they are.
"""

from __future__ import annotations

from actors.members import Hosted, Place
from actors.supervisor import Guard
from features.shard.assembly import LaneShard
from routing.delivery.assembly import LaneRouter
from tocsin.settings import Settings
from tocsin.storage.servers import Servers
from tocsin.wire.lanes import LaneName


def host(place: Place) -> Hosted:
    """The shard of the activity lane, or the router of a notification lane.

    Raises:
        ConfigurationError: a secret or a provider's URL cannot be used.
    """
    main = place.servers.main
    if place.lane.name == LaneName.ACTIVITY:
        return LaneShard(place.settings, place.lane, main, held=place.leases.held, clock=place.clock)
    return LaneRouter(place.settings, place.lane, main, name=place.name, clock=place.clock)


def guard(settings: Settings, servers: Servers) -> Guard:
    """The guard of the models' rollouts; heavy, so it is imported only now."""
    from launch.rollout_guard import open_guard

    return open_guard(settings, servers)
