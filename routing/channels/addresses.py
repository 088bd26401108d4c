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
ALLOCATED_V6 = ipaddress.ip_network("2000::/3")  # all that IANA has given out as global unicast
RESERVED_V6 = tuple(
    ipaddress.ip_network(one)
    for one in (
        "2001::/23",  # protocol assignments, among them Teredo, ORCHID and benchmarking
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)
RESERVED_V4 = tuple(
    ipaddress.ip_network(one)
    for one in ("192.0.0.0/24", "192.88.99.0/24")  # protocol assignments, 6to4 relays
)
ISATAP, ISATAP_MASK = 0x0000_5EFE, 0xFCFF_FFFF  # `::5efe:a.b.c.d` in any network; two bits of it are flags


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
    addresses = [str(address[0]) for *_, address in found]
    if not addresses:
        return Failure(FailureReason.UNREACHABLE, f"{parts.hostname} has no address")
    if not all(is_public(address) for address in addresses):
        return Failure(
            FailureReason.FORBIDDEN_TARGET,
            f"{parts.hostname} is not a public address; TOCSIN_WEBHOOK_ALLOW_PRIVATE=true allows it",
        )
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address is a public unicast one, also by the IPv4 address that it carries.

    Of IPv6 only what is allocated passes, and of the forms that carry an IPv4 address only those that may lead to a
    public one: so a form that nobody uses, or a zone id, or text that is no address is not public.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        return _is_public_v6(ip)
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in RESERVED_V4)


def _is_public_v6(ip: ipaddress.IPv6Address) -> bool:
    carried = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    if ip.scope_id is not None:
        return False
    if ip.ipv4_mapped is not None or ip in NAT64:  # the latter is how a network of IPv6 alone reaches IPv4
        return is_public(str(carried))
    if ip not in ALLOCATED_V6 or not ip.is_global or any(ip in network for network in RESERVED_V6):
        return False
    isatap = (int(ip) >> 32) & ISATAP_MASK == ISATAP
    return not isatap or is_public(str(carried))


def is_one_address(text: str) -> bool:
    """Whether a text is one number, mail address or id: nothing that separates a list, or a URL it is put into."""
    return _ONE_ADDRESS.fullmatch(text) is not None
