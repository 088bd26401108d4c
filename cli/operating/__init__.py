"""Commands of whoever runs a platform."""
