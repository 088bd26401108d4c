from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.channels import Failure, FailureReason
from routing.channels.addresses import is_public, public_address

NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.5",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::a9fe:a9fe",
    "::5db8:d822",  # IPv4-compatible, deprecated, whatever it carries
    "::ffff:127.0.0.1",
    "::ffff:0:127.0.0.1",
    "::ffff:0:5db8:d822",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1::5db8:d822",  # a network's own translator
    "100::1",
    "2001::1",
    "2001:0:5db8:d822:0:ffff:f5ff:fffa",  # Teredo: 10.0.0.5 behind a public server
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:470::5efe:127.0.0.1",
    "2001:470::200:5efe:10.0.0.5",
    "2001:470::300:5efe:a9fe:a9fe",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00::1",
    "fe80::1",
    "fe80::5efe:10.0.0.5",
    "fec0::1",
    "ff02::1",
    "fe80::1%eth0",
    "2606:4700::1111%1",
    "",
    "public.example",
    "93.184.216.34:80",
]
PUBLIC = [
    "1.1.1.1",
    "93.184.216.34",
    "2606:4700::1111",
    "2a00:1450:4001:831::200e",
    "::ffff:93.184.216.34",
    "64:ff9b::5db8:d822",
    "2001:470::5efe:5db8:d822",
    "2001:470::200:5efe:93.184.216.34",
]
PRIVATE_NETWORKS = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
]
FORMS = {
    "compatible": lambda v4: v4,
    "mapped": lambda v4: 0xFFFF << 32 | v4,
    "translated": lambda v4: 0xFFFF << 48 | v4,
    "nat64": lambda v4: 0x64FF9B << 96 | v4,
    "local nat64": lambda v4: 0x64FF9B0001 << 80 | v4,
    "6to4": lambda v4: 0x2002 << 112 | v4 << 80 | 1,
    "teredo server": lambda v4: 0x20010000 << 96 | v4 << 64 | (0x5DB8D822 ^ 0xFFFF_FFFF),
    "teredo client": lambda v4: 0x20010000 << 96 | 0x5DB8D822 << 64 | (v4 ^ 0xFFFF_FFFF),
    "isatap": lambda v4: 0x2001_0470 << 96 | 0x5EFE << 32 | v4,
    "isatap, universal": lambda v4: 0x2606_4700 << 96 | 0x0200_5EFE << 32 | v4,
    "isatap, link-local": lambda v4: 0xFE80 << 112 | 0x5EFE << 32 | v4,
}


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_taken(address: str) -> None:
    assert is_public(address)


@given(
    st.sampled_from(PRIVATE_NETWORKS).flatmap(lambda network: st.ip_addresses(network=network)),
    st.sampled_from(sorted(FORMS)),
)
def test_a_private_address_is_refused_in_every_form_that_carries_one(
    private: ipaddress.IPv4Address, form: str
) -> None:
    assert not is_public(str(private))
    assert not is_public(str(ipaddress.IPv6Address(FORMS[form](int(private)))))


@given(st.ip_addresses(v=6))
def test_an_ipv6_address_outside_of_what_is_allocated_is_refused(address: ipaddress.IPv6Address) -> None:
    allocated = address in ipaddress.ip_network("2000::/3")
    carries = address in ipaddress.ip_network("64:ff9b::/96") or address.ipv4_mapped is not None
    assert allocated or carries or not is_public(str(address))


@pytest.mark.parametrize("address", [one for one in NOT_PUBLIC if ":" in one and not one.endswith(":80")])
async def test_a_name_that_leads_to_one_is_refused_also_beside_a_public_one(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(_host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (one, port)) for one in ("93.184.216.34", address)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    found = await public_address("https://rebound.example/")
    assert isinstance(found, Failure)
    assert found.reason == FailureReason.FORBIDDEN_TARGET
