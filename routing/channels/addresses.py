"""Which addresses may be called for a sender's or a recipient's data: a URL, or a person's number or name at a service.

Anybody who may send a notification could otherwise make the platform call its own network. The address that was
checked is the address that is called: a name that resolves differently a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from urllib.parse import urlsplit

from routing.channels import Failure, FailureReason

# One number, mail address or id: nothing that separates a list, or the parts of a URL.
ADDRESS_PATTERN = r"^[^\s,;/?#%&\\\x00-\x1f\x7f-\x9f]+$"
_ONE_ADDRESS = re.compile(r"[^\s,;/?#%&\\\x00-\x1f\x7f]{1,256}")
NAT64 = ipaddress.ip_network("64:ff9b::/96")


async def public_address(url: str) -> str | Failure:
    """The address to call for `url`, or why it must not be called.

    Refused are URLs that are not HTTP, and names of which any address is not public.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return Failure(FailureReason.FORBIDDEN_TARGET, "a webhook URL is http:// or https:// with a host")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            parts.hostname, parts.port or 443, type=socket.SOCK_STREAM
        )
    except OSError as error:
        return Failure(
            FailureReason.UNREACHABLE, f"cannot resolve {parts.hostname}: {error.strerror or error}"
        )
    addresses = [str(address[0]).partition("%")[0] for *_, address in found]
    if not addresses:
        return Failure(FailureReason.UNREACHABLE, f"{parts.hostname} has no address")
    if not all(is_public(address) for address in addresses):
        return Failure(
            FailureReason.FORBIDDEN_TARGET,
            f"{parts.hostname} is not a public address; TOCSIN_WEBHOOK_ALLOW_PRIVATE=true allows it",
        )
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address is a public unicast one, also by the IPv4 address a transition prefix may carry."""
    ip = ipaddress.ip_address(address)
    if not ip.is_global or ip.is_multicast:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        carried = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        return carried is None or is_public(str(carried))
    return True


def is_one_address(text: str) -> bool:
    """Whether a text is one number, mail address or id: nothing that separates a list, or a URL it is put into."""
    return _ONE_ADDRESS.fullmatch(text) is not None
