"""The feature store compared with Feast: `python -m benchmarks.features`; ours alone: `benchmarks.features.online`."""
