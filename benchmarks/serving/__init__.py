"""Churn over HTTP, compared with stock Serve and FastAPI: `python -m benchmarks.serving`."""
