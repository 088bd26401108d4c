"""The models a replica serves with: it follows the registry, loads aside, and swaps in one step.

    each second: registry ──lineup changed──► load what is new, in a thread ──► one assignment: the next request has it

Requests under way keep the models they began with, so none is dropped. A champion that cannot be loaded does not
replace one that is served; a model on trial that cannot be loaded is one that fails at every call, which is what the
guard has to see. Both are tried again every half minute: a file that came late is no reason to stay behind for good.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from models.dataset.matrix import Floats
from models.prediction.churn import ChurnModel
from models.registry.lineup import Lineup
from models.registry.registry import Registry
from tocsin.clock import Clock
from tocsin.errors import TocsinError

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
LOAD_AGAIN_S = 30.0


class BrokenModel:
    """Stands for a model that cannot be loaded."""

    def __init__(self, version: str, error: Exception) -> None:
        self.version = version
        self.inputs: tuple[str, ...] = ()
        self._error = error

    def probabilities(self, raw: Floats) -> Floats:  # noqa: ARG002 (as a model's)
        """Raises why."""
        raise self._error


@dataclass(frozen=True)
class LoadedModel:
    """Models by their part, all of one moment."""

    lineup: Lineup = field(default_factory=Lineup)
    champion: ChurnModel | None = None
    judged: ChurnModel | BrokenModel | None = None
    reference: ChurnModel | BrokenModel | None = None
    reason: str = "there is no model yet"  # where there is no champion

    @property
    def is_whole(self) -> bool:
        """Whether every model that has a part is loaded."""
        champion = self.champion.version if self.champion else ""
        broken = any(isinstance(model, BrokenModel) for model in (self.judged, self.reference))
        return champion == self.lineup.champion and not broken


class LoadedModels:
    """Follows the registry of one replica.

    Args:
        registry: Where models and their parts are.
        clock: Time.
    """

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self.now = LoadedModel()
        self._registry = registry
        self._clock = clock
        self._looked_at = float("-inf")
        self._number = -1
        self._loaded_at = float("-inf")
        self._loading = asyncio.Lock()

    async def current(self) -> LoadedModel:
        """What serves; looks at the registry first if nothing serves and nobody looked recently."""
        if self.now.champion is None and self._clock.monotonic() - self._looked_at >= LOOK_EVERY_S:
            await self.follow()
        return self.now

    async def follow(self) -> LoadedModel:
        """Look at the registry, and load what changed. Never fails: what serves goes on serving."""
        async with self._loading:
            self._looked_at = self._clock.monotonic()
            try:
                head = await asyncio.to_thread(self._registry.head)
                again = not self.now.is_whole and self._looked_at - self._loaded_at >= LOAD_AGAIN_S
                if head.number != self._number or again:
                    self.now = await asyncio.to_thread(self._load, head.lineup)
                    self._number, self._loaded_at = head.number, self._looked_at
            except (TocsinError, OSError) as error:
                log.warning("the model registry cannot be read: %s", error)
                if self.now.champion is None:
                    self.now = LoadedModel(reason="the model registry cannot be read")
        return self.now

    def _load(self, lineup: Lineup) -> LoadedModel:
        before = self.now
        held = {model.version: model for model in (before.champion, before.judged, before.reference) if model}
        if not lineup.champion:
            return LoadedModel(lineup=lineup)
        champion, reason = before.champion, ""
        loaded = self._loaded(lineup.champion, held)
        if isinstance(loaded, ChurnModel):
            champion = loaded
        elif champion is None and lineup.previous:
            spare = self._loaded(lineup.previous, held)
            champion = spare if isinstance(spare, ChurnModel) else None
        if champion is None:
            reason = f"champion {lineup.champion} cannot be loaded"
        if not (lineup.judged and lineup.reference):
            return LoadedModel(lineup=lineup, champion=champion, reason=reason)
        judged, reference = (self._loaded(version, held) for version in (lineup.judged, lineup.reference))
        return LoadedModel(
            lineup=lineup, champion=champion, judged=judged, reference=reference, reason=reason
        )

    def _loaded(self, version: str, held: dict[str, ChurnModel | BrokenModel]) -> ChurnModel | BrokenModel:
        known = held.get(version)
        if isinstance(known, ChurnModel):
            return known
        try:
            model: ChurnModel | BrokenModel = self._registry.load(version)
            log.info("churn model %s loaded", version)
        except OSError:  # of the store, not of the model: the next look may find it
            raise
        except Exception as error:
            log.exception("churn model %s cannot be loaded", version)
            model = BrokenModel(version, error)
        held[version] = model
        return model
