"""How good a model is, and what may be promised of it."""
