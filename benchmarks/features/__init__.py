"""The feature store: beside Feast, `python -m benchmarks.features`; alone and online, `benchmarks.features.online`."""
