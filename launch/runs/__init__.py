"""One run of a platform: its processes, its logs, who may read its files, and what watches it."""
