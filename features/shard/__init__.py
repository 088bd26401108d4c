"""The shards: they consume the activity lane and keep the features."""
