"""Churn over HTTP beside stock Serve and FastAPI: `python -m benchmarks.serving`."""
