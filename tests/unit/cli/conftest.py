"""The trained model of the models' own tests."""

from tests.unit.models.conftest import events, trained

__all__ = ["events", "trained"]
