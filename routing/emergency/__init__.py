"""Emergency calls, and what they look up."""
