"""A loaded model and its answers."""
