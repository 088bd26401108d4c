"""Every Redis key: its pattern, type, TTL and hash tag, in one place.

The lane is the unit of placement: all keys of a lane share the hash tag `{lane}`, so that accepting, settling
and replaying are single atomic steps, and a lane can be given a server of its own. Where p0 has one, the keys of
`{p0}` and `{emergency}` are there and all others on the main server (`tocsin.storage.servers`).

| key                                    | type   | TTL                | holds |
|----------------------------------------|--------|--------------------|-------|
| `{ns}:{lane}:stream:{partition}`       | stream | none: trimmed on ack | blocks waiting or pending |
| `{ns}:{lane}:retries:{partition}`      | zset   | none               | envelopes by due time (s) |
| `{ns}:{lane}:outcomes:{partition}:{span}` | hash | outcome retention | what became of the blocks of five seconds |
| `{ns}:{lane}:dead`                     | hash   | none: until replayed | dead letters by id |
| `{ns}:{lane}:dead-index`               | zset   | none: as `dead`    | dead letter ids by time (s) |
| `{ns}:{lane}:quarantine`               | stream | none: 1,000 entries | blocks that could not be decoded |
| `{ns}:{lane}:counts`                   | hash   | none               | accepted, delivered, … since the beginning |
| `{ns}:{lane}:latency`                  | hash   | none               | accept-to-delivered histogram |
| `{ns}:{lane}:reports`                  | hash   | none               | faults, refusals and replays, as reported |
| `{ns}:{lane}:sources`                  | hash   | 10 min             | what each source holds of what waits, about |
| `{ns}:{lane}:dedup:{digest}`           | string | 24 h               | id of the first receipt |
| `{ns}:{lane}:idempotency:{digest}`     | string | 24 h               | result of a whole request |
| `{ns}:{lane}:members`                  | zset   | none: pruned       | live consumers by heartbeat (ms) |
| `{ns}:{lane}:lease:{partition}`        | string | lease              | the consumer that owns a partition |
| `{ns}:{lane}:process:{member}`         | string | none: one a member | the process that holds a member's name now |
| `{ns}:{supervisor}:members`            | zset   | none: one member   | the supervisor's heartbeat (ms) |
| `{ns}:{supervisor}:process:{member}`   | string | none: one          | the process that is the supervisor |
| `{ns}:{activity}:history:{advertiser}` | string | none               | tiles of one advertiser |
| `{ns}:{activity}:events:{advertiser}`  | hash   | none               | the event log of one advertiser, by event id |
| `{ns}:{activity}:vectors:{advertiser}` | string | none               | packed feature vectors of an advertiser |
| `{ns}:{activity}:applied:{partition}`  | string | none               | moves with every change of a partition |
| `{ns}:{activity}:watermark:{partition}` | string | none              | time (s) up to which a partition is applied |
| `{ns}:{activity}:log:{partition}`      | stream | none: trimmed when landed | changed events, for the offline store |
| `{ns}:{activity}:archive`              | hash   | none               | events logged, landed and lost; last landing |
| `{ns}:{activity}:freshness`            | hash   | none               | event-time-to-servable histogram |
| `{ns}:{activity}:wanted:{partition}`   | set    | 1 h                | advertisers whose vectors were not there |
| `{ns}:{activity}:popular:{hour}`       | zset   | 2 h                | advertisers by how often they were asked for |
| `{ns}:{activity}:backfill:{digest}`    | hash   | 7 d                | how far a backfill came, by partition |
| `{ns}:{activity}:served`               | stream | none: 10,000 entries | a sample of served vectors |
| `{ns}:{activity}:refused`              | hash   | none               | refused records and vectors, by reason |
| `{ns}:{activity}:advertisers`          | zset   | none               | advertisers by newest event time (s) |
| `{ns}:{activity}:insight:{advertiser}` | string | insight TTL        | a cached insight |
| `{ns}:{recipients}:profile:{recipient}` | string | none: until removed | what one recipient wants |
| `{ns}:{recipients}:index`              | zset   | none: as `profile` | recipient ids, in their order |
| `{ns}:{recipients}:version`            | string | none               | moves with every change of any recipient |
| `{ns}:{recipients}:window:{priority}:{recipient}` | zset | 1 h    | what was let through, by time (s) |
| `{ns}:{breakers}:state:{breaker}`      | hash   | 24 h               | state and counters of a breaker |
| `{ns}:{breakers}:probe:{breaker}`      | string | probe lease        | who may try again |
| `{ns}:{breakers}:names`                | zset   | 24 h               | breakers by when last seen (s) |
| `{ns}:{models}:observed:{trial}:{epoch}` | hash | 2 d               | counts of each replica about two models |
| `{ns}:{models}:verdict:{trial}`        | string | 60 s               | the last verdict of the guard |
| `{ns}:{models}:labels:{trial}`         | hash   | 60 d               | the same for matured labels |
| `{ns}:{models}:awaited:{trial}`        | zset   | 60 d               | advertisers by when a label is due; 20,000 |
| `{ns}:{models}:predicted:{trial}`      | hash   | 60 d               | what was predicted for those, until it is due |
| `{ns}:{emergency}:contacts:{digest}`   | string | 90 d               | last validated contacts of one caller |
| `{ns}:{emergency}:call:{digest}`       | string | 24 h               | what a call with an idempotency key became |
"""

from __future__ import annotations

from hashlib import blake2b

DEDUP_TTL_S = 86_400
SPAN_MS = 5_000  # blocks of a partition whose outcomes share a hash: see `routing.ledger.outcomes`
GROUP = "tocsin"  # the one consumer group of every stream


def digest(text: str) -> str:
    """A short stable name for text of any length and content."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


class LaneKeys:
    """The keys of one lane."""

    def __init__(self, namespace: str, lane: str) -> None:
        self.lane = lane
        self.prefix = f"{namespace}:{{{lane}}}"
        self.dead = f"{self.prefix}:dead"
        self.dead_index = f"{self.prefix}:dead-index"
        self.quarantine = f"{self.prefix}:quarantine"
        self.counts = f"{self.prefix}:counts"
        self.latency = f"{self.prefix}:latency"
        self.reports = f"{self.prefix}:reports"
        self.sources = f"{self.prefix}:sources"
        self.members = f"{self.prefix}:members"

    def stream(self, partition: int) -> str:
        """Blocks waiting or pending."""
        return f"{self.prefix}:stream:{partition}"

    def retries(self, partition: int) -> str:
        """Envelopes to try again, by due time."""
        return f"{self.prefix}:retries:{partition}"

    def outcomes(self, partition: int, entry: str) -> str:
        """What became of the block written as `entry`, and of those of the same five seconds."""
        return f"{self.prefix}:outcomes:{partition}:{int(entry.partition('-')[0]) // SPAN_MS}"

    def dedup(self, dedup_key: str) -> str:
        """The first receipt of a dedup key."""
        return f"{self.prefix}:dedup:{digest(dedup_key)}"

    def idempotency(self, key: str) -> str:
        """The result of a request that carried an idempotency key."""
        return f"{self.prefix}:idempotency:{digest(key)}"

    def lease(self, partition: int) -> str:
        """The owner of a partition."""
        return f"{self.prefix}:lease:{partition}"

    def process(self, member: str) -> str:
        """The process that holds a member's name."""
        return f"{self.prefix}:process:{member}"


class FeatureKeys:
    """The keys of the feature store, in the activity lane's slot."""

    def __init__(self, namespace: str) -> None:
        self.prefix = f"{namespace}:{{activity}}"
        self.advertisers = f"{self.prefix}:advertisers"
        self.served = f"{self.prefix}:served"
        self.refused = f"{self.prefix}:refused"
        self.archive = f"{self.prefix}:archive"
        self.freshness = f"{self.prefix}:freshness"

    def history(self, advertiser_id: str) -> str:
        """Tiles of one advertiser."""
        return f"{self.prefix}:history:{advertiser_id}"

    def events(self, advertiser_id: str) -> str:
        """The event log of one advertiser."""
        return f"{self.prefix}:events:{advertiser_id}"

    def vectors(self, advertiser_id: str) -> str:
        """The packed vectors of one advertiser, of all views."""
        return f"{self.prefix}:vectors:{advertiser_id}"

    def applied(self, partition: int) -> str:
        """A token that each change of the partition's state replaces."""
        return f"{self.prefix}:applied:{partition}"

    def watermark(self, partition: int) -> str:
        """The time up to which everything in the partition is applied."""
        return f"{self.prefix}:watermark:{partition}"

    def log(self, partition: int) -> str:
        """Changed events on their way to the offline store."""
        return f"{self.prefix}:log:{partition}"

    def backfill(self, digest_: str) -> str:
        """How far the backfill of an archive came, by partition: the last advertiser that is done."""
        return f"{self.prefix}:backfill:{digest_}"

    def wanted(self, partition: int) -> str:
        """Advertisers whose vectors should be computed again."""
        return f"{self.prefix}:wanted:{partition}"

    def popular(self, hour: int) -> str:
        """How often advertisers were asked for in one hour from the epoch."""
        return f"{self.prefix}:popular:{hour}"

    def insight(self, advertiser_id: str) -> str:
        """A cached insight."""
        return f"{self.prefix}:insight:{advertiser_id}"


class BreakerKeys:
    """The keys of the shared breakers."""

    def __init__(self, namespace: str) -> None:
        self.prefix = f"{namespace}:{{breakers}}"
        self.names = f"{self.prefix}:names"

    def state(self, name: str) -> str:
        """State, failures, reason and counters of one breaker."""
        return f"{self.prefix}:state:{name}"

    def probe(self, name: str) -> str:
        """The lease of the process that may try again."""
        return f"{self.prefix}:probe:{name}"


class EmergencyKeys:
    """The keys of emergency calls."""

    def __init__(self, namespace: str) -> None:
        self.prefix = f"{namespace}:{{emergency}}"

    def contacts(self, caller: str) -> str:
        """The last validated contacts of a caller."""
        return f"{self.prefix}:contacts:{digest(caller)}"

    def call(self, idempotency_key: str) -> str:
        """What a call with an idempotency key became."""
        return f"{self.prefix}:call:{digest(idempotency_key)}"


class RolloutKeys:
    """The keys of a rollout: the counts of a model on trial. Serving needs none of them."""

    def __init__(self, namespace: str) -> None:
        self.prefix = f"{namespace}:{{models}}"

    def observed(self, trial: str, epoch: int) -> str:
        """Counts of one run of the guard's tests, by replica: a hash."""
        return f"{self.prefix}:observed:{trial}:{epoch}"

    def verdict(self, trial: str) -> str:
        """The last verdict of the guard: a string."""
        return f"{self.prefix}:verdict:{trial}"

    def labels(self, trial: str) -> str:
        """Counts of matured labels."""
        return f"{self.prefix}:labels:{trial}"

    def awaited(self, trial: str) -> str:
        """Whose labels are due when, 0 once they were counted: a sorted set."""
        return f"{self.prefix}:awaited:{trial}"

    def predicted(self, trial: str) -> str:
        """What was predicted for those: a hash."""
        return f"{self.prefix}:predicted:{trial}"


class RecipientKeys:
    """The keys of recipients: a slot of their own, so that a batch of them is one read."""

    def __init__(self, namespace: str) -> None:
        self.prefix = f"{namespace}:{{recipients}}"
        self.index = f"{self.prefix}:index"
        self.version = f"{self.prefix}:version"

    def profile(self, recipient_id: str) -> str:
        """What one recipient wants."""
        return f"{self.prefix}:profile:{recipient_id}"

    def window(self, lane: str, recipient_id: str) -> str:
        """What was let through to one recipient in the last hour, on one lane."""
        return f"{self.prefix}:window:{lane}:{recipient_id}"
