"""Every Redis key: its pattern, type, TTL and hash tag, in one place.

The lane is the unit of placement: all keys of a lane share the hash tag `{lane}`, so that accepting, settling
and replaying are single atomic steps, and a lane can be given a server of its own.

| key                                    | type   | TTL                | holds |
|----------------------------------------|--------|--------------------|-------|
| `{ns}:{lane}:stream:{partition}`       | stream | none: trimmed on ack | blocks waiting or pending |
| `{ns}:{lane}:retries:{partition}`      | zset   | none               | envelopes by due time (s) |
| `{ns}:{lane}:outcome:{partition}:{entry}` | hash | outcome retention | what became of one block |
| `{ns}:{lane}:dead`                     | hash   | none: until replayed | dead letters by id |
| `{ns}:{lane}:dead-index`               | zset   | none: as `dead`    | dead letter ids by time (s) |
| `{ns}:{lane}:quarantine`               | stream | none: 1,000 entries | blocks that could not be decoded |
| `{ns}:{lane}:counts`                   | hash   | none               | accepted, delivered, … since the beginning |
| `{ns}:{lane}:latency`                  | hash   | none               | accept-to-delivered histogram |
| `{ns}:{lane}:dedup:{digest}`           | string | 24 h               | id of the first receipt |
| `{ns}:{lane}:idempotency:{digest}`     | string | 24 h               | result of a whole request |
| `{ns}:{lane}:members`                  | zset   | none: pruned       | live consumers by heartbeat (ms) |
| `{ns}:{lane}:lease:{partition}`        | string | lease              | the consumer that owns a partition |
| `{ns}:{activity}:history:{advertiser}` | string | none               | daily tiles of one advertiser |
| `{ns}:{activity}:events:{advertiser}`  | hash   | none               | the event log of one advertiser, by event id |
| `{ns}:{activity}:advertisers`          | zset   | none               | advertisers by newest event time (s) |
| `{ns}:{activity}:insight:{advertiser}` | string | insight TTL        | a cached insight |
"""

from __future__ import annotations

from hashlib import blake2b

DEDUP_TTL_S = 86_400
GROUP = "tocsin"  # the one consumer group of every stream


def digest(text: str) -> str:
    """A short stable name for text of any length and content."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


class LaneKeys:
    """The keys of one lane."""

    def __init__(self, namespace: str, lane: str) -> None:
        self.prefix = f"{namespace}:{{{lane}}}"
        self.dead = f"{self.prefix}:dead"
        self.dead_index = f"{self.prefix}:dead-index"
        self.quarantine = f"{self.prefix}:quarantine"
        self.counts = f"{self.prefix}:counts"
        self.latency = f"{self.prefix}:latency"
        self.members = f"{self.prefix}:members"

    def stream(self, partition: int) -> str:
        """Blocks waiting or pending."""
        return f"{self.prefix}:stream:{partition}"

    def retries(self, partition: int) -> str:
        """Envelopes to try again, by due time."""
        return f"{self.prefix}:retries:{partition}"

    def outcome(self, partition: int, entry: str) -> str:
        """What became of the block written as `entry`."""
        return f"{self.prefix}:outcome:{partition}:{entry}"

    def dedup(self, dedup_key: str) -> str:
        """The first receipt of a dedup key."""
        return f"{self.prefix}:dedup:{digest(dedup_key)}"

    def idempotency(self, key: str) -> str:
        """The result of a request that carried an idempotency key."""
        return f"{self.prefix}:idempotency:{digest(key)}"

    def lease(self, partition: int) -> str:
        """The owner of a partition."""
        return f"{self.prefix}:lease:{partition}"


class FeatureKeys:
    """The keys of the feature store, in the activity lane's slot."""

    def __init__(self, namespace: str) -> None:
        self.prefix = f"{namespace}:{{activity}}"
        self.advertisers = f"{self.prefix}:advertisers"

    def history(self, advertiser_id: str) -> str:
        """Daily tiles of one advertiser."""
        return f"{self.prefix}:history:{advertiser_id}"

    def events(self, advertiser_id: str) -> str:
        """The event log of one advertiser."""
        return f"{self.prefix}:events:{advertiser_id}"

    def insight(self, advertiser_id: str) -> str:
        """A cached insight."""
        return f"{self.prefix}:insight:{advertiser_id}"
