"""Trained models, and who serves."""
