"""Durable lanes on Redis streams, and those who consume them."""
