"""Notifications through lanes, routers and HTTP: `python -m benchmarks.routing`.

How one source that floods a lane delays the others: `python -m benchmarks.routing.fairness`.
"""
