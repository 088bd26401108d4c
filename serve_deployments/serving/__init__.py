"""What the endpoints share besides HTTP."""
