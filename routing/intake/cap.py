"""Common Alerting Protocol in, notifications out.

Reads an Atom index with `cap:` elements (as the US National Weather Service publishes) or with whole alerts in its
entries, the plain CAP `<alert>` document, and several in one element (`<alerts>`); versions 1.1 and 1.2, also without
their namespace. Each alert becomes one `weather_alert` notification, whose lane
follows from its severity; each that does not is in `rejects` with a reason.

Source: OASIS Common Alerting Protocol 1.2, section 3.2.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element, ParseError  # types only; parsing is defusedxml's

import msgspec
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from routing.intake.text import clip
from tocsin.clock import to_datetime
from tocsin.errors import UnreadableFileError
from tocsin.wire.limits import MAX_EXPIRY_S
from tocsin.wire.notifications import NotificationRequest

MAX_FILE_BYTES = 64 * 1024 * 1024

ATOM = "http://www.w3.org/2005/Atom"
CAP = ("urn:oasis:names:tc:emergency:cap:1.2", "urn:oasis:names:tc:emergency:cap:1.1", "")
GEOCODES = ("UGC", "FIPS6", "FIPS", "SAME")  # the codes of an area, best first

TITLE_CHARS = 256
BODY_CHARS = 4096
DATA_CHARS = 1024
ID_CHARS = 256
RECIPIENT_CHARS = 256
SOURCE_CHARS = 64
REASON_CHARS = 200

_DOCUMENTS = tuple(f"{{{space}}}alert" if space else "alert" for space in CAP)
_DOMAIN = re.compile(r"(?:[a-z0-9-]+\.)+[a-z][a-z0-9-]+")
_NOT_WORD = re.compile(r"[\W_]+")
_C1 = re.compile(r"[\x7f-\x9f]")
_QUIET = re.compile(r"there are no active|no (active )?(alerts|warnings|watches)", re.IGNORECASE)
_NEXT = "give an Atom index with cap: elements, or a CAP 1.1 or 1.2 <alert> document"


@dataclass(frozen=True, slots=True)
class AlertReject:
    """An alert that became no notification."""

    position: int  # in the document, from 0
    id: str  # empty when that is what is missing
    reason: str


@dataclass(frozen=True, slots=True)
class AlertFeed:
    """What a document holds: every alert of it is in one of the two."""

    alerts: list[NotificationRequest]
    rejects: list[AlertReject]
    positions: list[int] = field(default_factory=list)  # of the alerts, in the document, from 0


@dataclass(frozen=True, slots=True)
class _Alert:
    """The texts of one alert, wherever the document kept them; empty when it did not."""

    id: str
    sender: str
    title: str
    body: str
    event: str
    status: str
    msg_type: str
    severity: str
    urgency: str
    certainty: str
    expires: str
    area: str
    geocodes: dict[str, str]


class _RejectedError(Exception):
    """Carries the reason from the check that failed to the list of rejects."""


def read_alerts(path: str | os.PathLike[str], now: float) -> AlertFeed:
    """Read a CAP document or an Atom index of alerts.

    Args:
        path: an XML file of at most 64 MiB.
        now: epoch seconds. An end further ahead than a notification's may be is capped to that.

    Raises:
        UnreadableFileError: missing, empty, too large, not XML, not CAP, or with entities declared.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnreadableFileError(
            f"cannot read {file}: {error.strerror or error}", hint="check the path and its permissions"
        ) from error
    return parse_alerts(content, now, name=str(file))


def parse_alerts(content: bytes, now: float, *, name: str = "the document") -> AlertFeed:
    """As `read_alerts`, from bytes; `name` is used in error messages."""
    root = _root(content, name)
    alerts: list[NotificationRequest] = []
    positions: list[int] = []
    rejects: list[AlertReject] = []
    for position, alert in enumerate(_alerts(root, name)):
        try:
            alerts.append(_notification(alert, now))
            positions.append(position)
        except _RejectedError as error:
            rejects.append(AlertReject(position, alert.id, clip(str(error), REASON_CHARS)))
    return AlertFeed(alerts, rejects, positions)


# --------------------------------------------------------------------------- the document


def _root(content: bytes, name: str) -> Element:
    if not content.strip():
        raise UnreadableFileError(f"{name} is empty", hint=_NEXT)
    if content.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] in {b"{", b"["}:
        raise UnreadableFileError(
            f"{name} is not well-formed XML but JSON",
            hint="ask its publisher for Atom or CAP: Accept: application/atom+xml",
        )
    if len(content) > MAX_FILE_BYTES:
        limit = f"{MAX_FILE_BYTES // 1024**2} MiB"
        raise UnreadableFileError(f"{name} is larger than {limit}", hint="split it into smaller feeds")
    try:
        root: Element = fromstring(content)
    except DefusedXmlException as error:
        raise UnreadableFileError(
            f"{name} declares XML entities, which are refused", hint="remove its <!ENTITY> declarations"
        ) from error
    except (ParseError, ValueError, LookupError) as error:  # the last two: an unknown or unfit encoding
        raise UnreadableFileError(f"{name} is not well-formed XML: {error}", hint=_NEXT) from error
    return root


def _alerts(root: Element, name: str) -> Iterator[_Alert]:
    if root.tag == f"{{{ATOM}}}feed":
        author = root.findtext(f"{{{ATOM}}}author/{{{ATOM}}}name", "")
        entries = root.findall(f"{{{ATOM}}}entry")
        if len(entries) == 1 and _is_quiet(entries[0]):
            return iter(())
        return (alert for entry in entries for alert in _of_entry(entry, author))
    if root.tag in _DOCUMENTS:
        return iter((_from_document(root),))
    if root.tag.rpartition("}")[2] == "alerts":
        return (_from_document(alert) for alert in root if alert.tag in _DOCUMENTS)
    raise UnreadableFileError(
        f"{name} is neither an Atom feed nor a CAP alert: its root is <{clip(root.tag, 100)}>",
        hint=_NEXT,
    )


def _of_entry(entry: Element, feed_author: str) -> Iterator[_Alert]:
    """The alert of an entry, or those that it carries whole in its content."""
    whole = [alert for tag in _DOCUMENTS for alert in entry.iterfind(f"{{{ATOM}}}content/{tag}")]
    if whole:
        yield from map(_from_document, whole)
    else:
        yield _from_entry(entry, feed_author)


def _is_quiet(entry: Element) -> bool:
    """Whether an entry only says that there is nothing to tell, as feeds do that may not be empty."""
    told = any(element.tag.startswith("{urn:oasis:names:tc:emergency:cap:") for element in entry.iter())
    return not told and bool(_QUIET.match(entry.findtext(f"{{{ATOM}}}title", "").strip()))


def _from_entry(entry: Element, feed_author: str) -> _Alert:
    def atom(name: str) -> str:
        path = "/".join(f"{{{ATOM}}}{part}" for part in name.split("/"))
        return " ".join(_clean(entry.findtext(path, "")).split())

    return _Alert(
        id=atom("id") or _cap(entry, "identifier"),
        sender=_cap(entry, "sender") or atom("author/name") or feed_author,
        title=atom("title") or _cap(entry, "headline") or _cap(entry, "event"),
        body=atom("summary") or _cap(entry, "description"),
        event=_cap(entry, "event"),
        status=_cap(entry, "status"),
        msg_type=_cap(entry, "msgType"),
        severity=_cap(entry, "severity"),
        urgency=_cap(entry, "urgency"),
        certainty=_cap(entry, "certainty"),
        expires=_cap(entry, "expires"),
        area=_cap(entry, "areaDesc"),
        geocodes=_geocodes(entry),
    )


def _from_document(root: Element) -> _Alert:
    infos = [info for space in CAP for info in root.iterfind(f"{{{space}}}info")]
    english = (info for info in infos if (_cap(info, "language") or "en-US").lower().startswith("en"))
    info = next(english, infos[0] if infos else Element("info"))
    areas = [area for space in CAP for area in info.iterfind(f"{{{space}}}area")]
    return _Alert(
        id=_cap(root, "identifier"),
        sender=_cap(root, "sender"),
        title=_cap(info, "headline") or _cap(info, "event"),
        body=_cap(info, "description", lines=True),
        event=_cap(info, "event"),
        status=_cap(root, "status"),
        msg_type=_cap(root, "msgType"),
        severity=_cap(info, "severity"),
        urgency=_cap(info, "urgency"),
        certainty=_cap(info, "certainty"),
        expires=_cap(info, "expires"),
        area="; ".join(filter(None, (_cap(area, "areaDesc") for area in areas))),
        geocodes=_geocodes(info),
    )


def _clean(text: str) -> str:
    """Text without control characters of the second block: what they are is an 8-bit encoding read as Latin-1."""
    return _C1.sub(lambda found: found.group().encode("latin-1").decode("cp1252", "ignore"), text)


def _cap(parent: Element, name: str, *, lines: bool = False) -> str:
    """The text of a CAP child of either version, on one line unless its lines matter."""
    found = (parent.findtext(f"{{{space}}}{name}") for space in CAP)
    text = _clean(next(filter(None, found), ""))
    return text.strip() if lines else " ".join(text.split())


def _geocodes(parent: Element) -> dict[str, str]:
    """The first code of each kind.

    In feeds the names and values inside `cap:geocode` often lack the prefix, and several pairs share one
    element: they are read by local name, in order.
    """
    codes: dict[str, str] = {}
    for space in CAP:
        for geocode in parent.iter(f"{{{space}}}geocode" if space else "geocode"):
            kind = ""
            for child in geocode:
                text = (child.text or "").strip()
                if child.tag.rpartition("}")[2] == "valueName":
                    kind = text.upper()
                elif child.tag.rpartition("}")[2] == "value" and text:
                    codes.setdefault(kind, text.split()[0])
    return codes


# --------------------------------------------------------------------------- the notification


def _notification(alert: _Alert, now: float) -> NotificationRequest:
    _check(alert)
    data = {
        # Not the alert_type: "Fire Weather Watch" is no fire. The issuer's severity decides the lane, not words.
        "event": clip(alert.event, DATA_CHARS),
        "urgency": clip(alert.urgency, DATA_CHARS),
        "certainty": clip(alert.certainty, DATA_CHARS),
        "msgType": clip(alert.msg_type, DATA_CHARS),
        "areaDesc": clip(alert.area, DATA_CHARS),
    }
    cut = {
        "title": len(alert.title) > TITLE_CHARS,
        "body": len(alert.body) > BODY_CHARS,
        "areaDesc": len(alert.area) > DATA_CHARS,
    }
    data["truncated"] = ",".join(name for name, is_cut in cut.items() if is_cut)
    fields: dict[str, Any] = {
        "type": "weather_alert",
        "severity": alert.severity or "Unknown",
        "title": clip(alert.title, TITLE_CHARS),
        "body": clip(alert.body, BODY_CHARS),
        "recipient": _recipient(alert),
        "source": _source(alert.sender),
        "dedup_key": _dedup_key(alert.id),
        "expires_at": _expiry(alert.expires, now),
        "data": {name: value for name, value in data.items() if value},
    }
    try:
        return msgspec.convert(fields, NotificationRequest)
    except msgspec.ValidationError as error:
        raise _RejectedError(str(error)) from error


def _check(alert: _Alert) -> None:
    """Raise for what must not, or cannot, become a notification."""
    if not alert.id:
        raise _RejectedError("id is missing")
    if alert.status not in {"", "Actual"}:
        raise _RejectedError(f"status is {alert.status}")
    if alert.msg_type not in {"", "Alert", "Update"}:
        raise _RejectedError(f"msgType is {alert.msg_type}")
    if not (alert.event or alert.severity):
        raise _RejectedError("it has no CAP event and no severity")
    if not alert.title:
        raise _RejectedError("title is missing")


def _expiry(text: str, now: float) -> datetime | None:
    """The end of an alert; one too far ahead to be accepted is the furthest that is."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _RejectedError(f"expires is not a date with an offset: {text!r}")
    return moment if moment.timestamp() <= now + MAX_EXPIRY_S else to_datetime(now + MAX_EXPIRY_S)


def _recipient(alert: _Alert) -> str:
    """`area:` and the area's code, or its name where there is no code."""
    code = next((alert.geocodes[kind] for kind in GEOCODES if kind in alert.geocodes), "")
    area = code or _NOT_WORD.sub("-", alert.area.casefold()).strip("-")
    if not area:
        raise _RejectedError("it names no area")
    return f"area:{area}"[:RECIPIENT_CHARS]


def _source(sender: str) -> str:
    """`cap:` and the sender's domain, from an e-mail address, a URL or a bare domain."""
    text = sender.strip().lower()
    try:
        domain = (urlsplit(text).hostname or "") if "://" in text else text.rpartition("@")[2]
    except ValueError:
        domain = ""
    source = f"cap:{domain}"
    return source if _DOMAIN.fullmatch(domain) and len(source) <= SOURCE_CHARS else "cap"


def _dedup_key(identifier: str) -> str:
    """The alert's id, or its SHA-256 where it is longer than a key may be."""
    if len(identifier) <= ID_CHARS:
        return identifier
    return "sha256:" + hashlib.sha256(identifier.encode()).hexdigest()
