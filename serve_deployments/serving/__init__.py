"""What the endpoints share beside HTTP."""
