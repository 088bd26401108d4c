"""The delivery pipeline and its router."""
