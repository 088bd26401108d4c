"""The Python client: HTTP only."""

from tocsin.client.clients import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
