"""Requests as the world sends them: compressed, marked, damaged, to the wrong place; the headers of answers."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from redis import asyncio as aioredis

from routing.recipients.store import RecipientStore
from tests.whole_api import whole_api
from tocsin.settings import Settings
from tocsin.wire.limits import MAX_BODY_BYTES

P0: dict[str, Any] = {"type": "emergency", "title": "Smoke", "recipient": "r"}
P2: dict[str, Any] = {"type": "reminder", "title": "Tea", "recipient": "r"}
CALL: dict[str, Any] = {"caller": "c", "kind": "fire", "contacts": ["a"]}
JSON = {"content-type": "application/json"}
EVENT = {"advertiser_id": "a", "event_time": "2024-05-01T00:00:00Z"}


@pytest.fixture
async def http(url: str, namespace: str, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    settings = msgspec.structs.replace(
        Settings.from_env({}), redis_url=url, namespace=namespace, data_dir=str(tmp_path)
    )
    transport = httpx2.ASGITransport(whole_api(settings))
    async with httpx2.AsyncClient(transport=transport, base_url="http://platform", headers=JSON) as made:
        yield made


def packed(body: bytes) -> bytes:
    """The same bytes each time."""
    return gzip.compress(body, mtime=0)


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


BODY = json.dumps(P0).encode()
HALVES = packed(BODY[:20]) + packed(BODY[20:])


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"\xef\xbb\xbf" + BODY, ""),
        (b"\xef\xbb\xbf[" + BODY + b"]", "identity"),
        (packed(BODY), "gzip"),
        (packed(b"\xef\xbb\xbf" + BODY), "GZIP"),
        (packed(BODY), "x-gzip"),
        (HALVES, "gzip"),
        (packed(BODY), ""),
        (zlib.compress(BODY), "deflate"),
        (raw_deflate(BODY), "deflate"),
    ],
    ids=["mark", "mark-array", "gzip", "mark-gzip", "x-gzip", "members", "unnamed", "deflate", "raw-deflate"],
)
async def test_marked_and_compressed_bodies_are_taken(
    http: httpx2.AsyncClient, body: bytes, encoding: str
) -> None:
    headers = {"content-encoding": encoding} if encoding else {}
    assert (await http.post("/v1/notifications", content=body, headers=headers)).status_code == 202


async def test_every_application_takes_them(http: httpx2.AsyncClient) -> None:
    headers = {"content-encoding": "gzip"}
    for path, body, status in (
        ("/v1/activity", EVENT, 202),
        ("/v1/emergency-calls", CALL, 202),
        ("/v1/churn", {"advertiser_ids": ["a"]}, 200),
        ("/v1/features", {"advertiser_ids": ["a"]}, 200),
        ("/v1/dead-letters/purge", {"filter": {}, "dry_run": True}, 200),
    ):
        sent = packed(b"\xef\xbb\xbf" + json.dumps(body).encode())
        assert (await http.post(path, content=sent, headers=headers)).status_code == status, path
    put = await http.put("/v1/recipients/r", content=packed(b"{}"), headers=headers)
    assert put.status_code == 200


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
async def test_another_encoding_is_refused_and_told_which_are_taken(
    http: httpx2.AsyncClient, encoding: str
) -> None:
    refused = await http.post("/v1/notifications", content=BODY, headers={"content-encoding": encoding})
    assert (refused.status_code, refused.json()["field"]) == (415, "content-encoding")
    assert refused.headers["accept-encoding"] == "gzip, deflate, identity"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_what_inflates_past_the_limit_is_refused(http: httpx2.AsyncClient, encoding: str) -> None:
    huge = b" " * (MAX_BODY_BYTES + 1)
    sent = packed(huge) if encoding == "gzip" else zlib.compress(huge)
    refused = await http.post("/v1/notifications", content=sent, headers={"content-encoding": encoding})
    assert (refused.status_code, refused.json()["limit"]) == (413, f"<= {MAX_BODY_BYTES} bytes")


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (BODY, "gzip"),
        (packed(BODY)[:-4], "gzip"),
        (packed(BODY) + b"more", "gzip"),
        (packed(b"") * 1000, "gzip"),
        (b"\x1f\x8b", ""),
        (BODY, "deflate"),
    ],
    ids=["plain", "cut", "garbage-after", "members", "magic", "plain-deflate"],
)
async def test_what_is_not_what_its_encoding_says_is_refused(
    http: httpx2.AsyncClient, body: bytes, encoding: str
) -> None:
    headers = {"content-encoding": encoding} if encoding else {}
    refused = await http.post("/v1/notifications", content=body, headers=headers)
    assert (refused.status_code, refused.json()["field"]) == (422, "body")


# --------------------------------------------------------------------------- texts of a P0


async def test_a_receipt_says_what_was_changed(http: httpx2.AsyncClient) -> None:
    batch = [P2, P0 | {"title": "x" * 300}, P2 | {"title": "x" * 300}, P0 | {"body": "a\x1bb"}]
    answer = (await http.post("/v1/notifications", json=batch)).json()
    changed = {one["index"]: [c["field"] for c in one["changed"]] for one in answer["receipts"]}
    assert changed == {0: [], 1: ["title"], 3: ["body"]}
    assert [(one["index"], one["limit"]) for one in answer["errors"]] == [(2, "<= 256")]


async def test_an_emergency_call_is_not_refused_for_its_texts(http: httpx2.AsyncClient) -> None:
    sent = CALL | {"message": "m" * 5000, "location": "Flat\x1b 4"}
    body = json.dumps(sent).encode()
    for content in (body, body.replace(b"\\u001b", b"\x1b"), body.replace(b"\\u001b", b"\xff")):
        answer = await http.post("/v1/emergency-calls", content=content)
        assert answer.status_code == 202, answer.text
        assert {(one["field"], one["change"]) for one in answer.json()["changed"]} == {
            ("message", "cut"),
            ("location", "cleaned"),
        }
    raw_id = json.dumps(CALL | {"contacts": ["@"]}).encode().replace(b"@", b"\x1b")
    refused = await http.post("/v1/emergency-calls", content=raw_id)
    assert (refused.status_code, refused.json()["field"]) == (422, "contacts")


# --------------------------------------------------------------------------- names given twice


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/notifications", BODY[:-1] + b', "title": "other"}', "title"),
        ("/v1/notifications", b"[" + BODY[:-1] + b', "title": "other"}]', "title"),
        ("/v1/notifications", BODY[:-1] + b', "data": {"k": "1", "k": "2"}}', "k"),
        ("/v1/activity", json.dumps(EVENT)[:-1].encode() + b', "amount": 1, "amount": 2}', "amount"),
        ("/v1/emergency-calls", json.dumps(CALL)[:-1].encode() + b', "contacts": ["b"]}', "contacts"),
        ("/v1/churn", b'{"advertiser_ids": ["a"], "advertiser_ids": ["b"]}', "advertiser_ids"),
        ("/v1/features", b'{"advertiser_ids": ["a"], "advertiser_ids": ["b"]}', "advertiser_ids"),
        ("/v1/dead-letters/purge", b'{"filter": {"lane": "p0"}, "filter": {}}', "filter"),
        ("/v1/dead-letters/replay", b'{"filter": {"lane": "p0", "lane": "p1"}}', "lane"),
    ],
    ids=str,
)
async def test_a_name_given_twice_is_refused_and_named(
    http: httpx2.AsyncClient, path: str, body: bytes, name: str
) -> None:
    refused = await http.post(path, content=body)
    assert (refused.status_code, refused.json()["field"]) == (422, name)


async def test_the_platforms_own_source_is_nobody_elses(http: httpx2.AsyncClient) -> None:
    for source in ("tocsin", "Tocsin", " tocsin "):
        refused = await http.post("/v1/notifications", json=P0 | {"source": source})
        assert (refused.status_code, refused.json()["field"]) == (422, "source")


# --------------------------------------------------------------------------- paths, methods, headers


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/churn", "POST"),
        ("GET", "/v1/churn/", "POST"),
        ("GET", "/v1/features", "POST"),
        ("OPTIONS", "/v1/features", "POST"),
        ("POST", "/v1/churn/at-risk", "GET, HEAD"),
        ("GET", "/v1/dead-letters/replay", "POST"),
        ("OPTIONS", "/v1/dead-letters/p0-0-1-0-0", "DELETE, GET, HEAD"),
        ("OPTIONS", "/v1/recipients/a/b", "DELETE, GET, HEAD, PUT"),
        ("PUT", "/v1/recipients", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
async def test_a_method_a_path_does_not_have_is_405(
    http: httpx2.AsyncClient, method: str, path: str, allowed: str
) -> None:
    refused = await http.request(method, path)
    assert (refused.status_code, refused.headers.get("allow")) == (405, allowed)
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/v1/churn/", "/v1/features/", "/v1/insights/"])
async def test_any_id_is_a_path_and_one_that_cannot_be_is_named(http: httpx2.AsyncClient, path: str) -> None:
    assert (await http.get(path + "a%0Ab%2Fc")).status_code == 404
    for wrong in ("a%00", "x" * 129):
        refused = await http.get(path + wrong)
        assert (refused.status_code, refused.json()["field"]) == (422, "advertiser_id")


async def test_a_batch_of_questions_is_one_object_of_json(http: httpx2.AsyncClient) -> None:
    for path in ("/v1/churn", "/v1/features"):
        one = {"advertiser_ids": ["a"]}
        assert (await http.post(path, json=[one, one])).status_code == 422
        assert (await http.post(path, json=one, headers={"content-type": "text/csv"})).status_code == 415


@pytest.mark.parametrize(
    "path",
    [
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/docs/assets/swagger-ui.css",
        "/nowhere",
        "/v1/churn",
        "/v1/churn/unknown",
        "/v1/dead-letters?limit=0",
    ],
)
async def test_every_answer_stays_out_of_caches_and_is_what_it_says(
    http: httpx2.AsyncClient, path: str
) -> None:
    headers = (await http.get(path)).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


async def test_of_a_webhook_the_host_is_shown(http: httpx2.AsyncClient) -> None:
    url = "https://hooks.example.org/T0/secret?token=secret"
    sent = await http.post("/v1/notifications", json=P0 | {"channels": ["webhook"], "webhook_url": url})
    status = await http.get(f"/v1/notifications/{sent.json()['receipts'][0]['id']}")
    assert status.json()["notification"]["webhook_url"] == "https://hooks.example.org/***"
    put = await http.put("/v1/recipients/r", json={"webhook_url": url})
    shown = (await http.get("/v1/recipients/r")).json()
    assert put.json()["webhook_url"] == shown["webhook_url"] == "https://hooks.example.org/***"
    for answer in (status, put):
        assert "secret" not in answer.text


async def test_a_masked_webhook_stays_as_it_was(
    http: httpx2.AsyncClient, client: aioredis.Redis, namespace: str
) -> None:
    await http.put("/v1/recipients/r", json={"webhook_url": "https://hooks.example.org/secret"})
    again = await http.put("/v1/recipients/r", json={"webhook_url": "https://hooks.example.org/***"})
    assert again.status_code == 200
    (stored,) = await RecipientStore(client, namespace=namespace).get_many(["r"])
    assert stored is not None
    assert stored.webhook_url == "https://hooks.example.org/secret"
    elsewhere = await http.put("/v1/recipients/r", json={"webhook_url": "https://other.example.org/***"})
    assert elsewhere.status_code == 409


async def test_a_recipient_that_contradicts_itself_is_a_conflict(http: httpx2.AsyncClient) -> None:
    for body in ({"fallback_contacts": ["r"]}, {"targets": {"sms": "***"}}):
        assert (await http.put("/v1/recipients/r", json=body)).status_code == 409
    empty = {"quiet_hours": {"start": "22:00", "end": "22:00"}}
    assert (await http.put("/v1/recipients/r", json=empty)).status_code == 200


async def test_a_whole_number_may_be_written_with_a_point(http: httpx2.AsyncClient) -> None:
    taken = await http.put("/v1/recipients/r", content=b'{"max_per_hour": 5.0}')
    assert (taken.status_code, taken.json()["max_per_hour"]) == (200, 5)
    assert (await http.put("/v1/recipients/r", content=b'{"max_per_hour": 5.5}')).status_code == 422
