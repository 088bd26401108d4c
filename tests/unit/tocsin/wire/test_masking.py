from __future__ import annotations

import pytest

from tocsin.wire.masking import masked_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hooks.example.org/services/T0/B0/secret", "https://hooks.example.org/***"),
        ("http://example.org:8080/hook?token=secret#secret", "http://example.org:8080/***"),
        ("https://user:secret@example.org", "https://example.org/***"),
        ("https://[2001:db8::1]:9/secret", "https://[2001:db8::1]:9/***"),
        ("https://example.org/", "https://example.org/"),
        ("http://example.org:8080", "http://example.org:8080"),
        ("https://example.org:port/secret", "https://***/***"),
        ("https://[secret", "https://***/***"),
        (f"https://{'secret' * 60}", "https://***/***"),
    ],
)
def test_of_a_url_scheme_and_host_are_shown(url: str, shown: str) -> None:
    assert masked_url(url) == shown
    assert masked_url(shown) == shown
