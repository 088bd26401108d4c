"""A model on trial, and the guard that watches it."""
