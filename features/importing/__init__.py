"""Importing: files become activities."""
