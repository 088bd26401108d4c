"""Fits models for real: seconds, so apart from the unit tests whose fixtures these are."""

from tests.unit.models.conftest import events, model, registry, trained

__all__ = ["events", "model", "registry", "trained"]
