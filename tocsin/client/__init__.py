"""The Python client: HTTP only."""

from tocsin.client.asynchronous import AsyncClient
from tocsin.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
