"""Churn and insights, pure: no Ray, no Redis, no HTTP. Time is an argument; only the registry touches files."""
