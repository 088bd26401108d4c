"""The classifier of a replica, with the operator's rules where there are any."""

from __future__ import annotations

from pathlib import Path

from routing.intake.priority import Classifier
from routing.intake.rules import CHECK_EVERY_S, RuleFile
from tocsin.background import repeat
from tocsin.clock import Clock
from tocsin.settings import Settings


class PriorityRules:
    """Classifies, and follows the operator's file of rules.

    Args:
        settings: `rules` names the file.
        clock: Time.

    Raises:
        ConfigurationError: the file cannot be used; names it, the rule and the field.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.classifier = Classifier()
        self._file = RuleFile(Path(settings.rules), clock, self.classifier.use) if settings.rules else None

    async def run(self) -> None:
        """Follow the file for as long as the replica runs; ends at once where there is none."""
        if self._file is not None:
            await repeat("rules", self._look, every_s=CHECK_EVERY_S, wait_first=True)

    async def _look(self) -> None:
        if self._file is not None:
            self._file.look()
