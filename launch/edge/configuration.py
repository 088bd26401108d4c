"""HAProxy's configuration as Ray writes it, with our bounds put in.

Ray's template has no place for most of them, so its text is amended section by section. Whatever is looked for and not
found raises: an edge without its bounds must not start in silence, and the tests meet it first after an upgrade.

    frontend ──slow, too many from one address──► 408, refused
        ├──/-/routes──► 404          ├──a route of ours that is not there yet──► 503
        └──► backend of the application ──late──► another replica (GET), 504
                └── answers of Ray that are no problem details become some
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.edge import bounds as edge
from launch.edge.bounds import PROBLEM, Bounds

SECTION = re.compile(r"^(global|defaults|frontend|backend|listen)\b")
FRONTEND = "frontend http_frontend"
ALWAYS_URGENT = ("/healthz", "/readyz", "/-/healthz")
FILES_BESIDE = 512  # descriptors for other things than connections
STANDARD = Bounds("", 2_800, 2_800, 2_800, 16_384, (), urgent=False)  # applications that are not ours


class UnknownConfigurationError(Exception):
    """Ray writes another configuration than the one this module knows."""


@dataclass
class Section:
    """One section: its first line, and the lines below it."""

    head: str
    lines: list[str] = field(default_factory=list)

    def drop(self, pattern: str, *, least: int = 1) -> None:
        """Take out every line that begins like this; at least so many must be there."""
        kept = [line for line in self.lines if not re.match(rf"\s*(?:{pattern})", line)]
        if len(self.lines) - len(kept) < least:
            raise UnknownConfigurationError(f"`{self.head}` has no line like {pattern!r}")
        self.lines = kept

    def open_with(self, lines: Iterable[str]) -> None:
        """Put lines before all others: rules are tried in order."""
        self.lines[:0] = [f"    {line}" for line in lines]

    def close_with(self, lines: Iterable[str]) -> None:
        """Put lines behind all others."""
        self.lines += [f"    {line}" for line in lines]


def amended(text: str, bounds: Sequence[Bounds], pages: Path) -> str:
    """Ray's configuration with our bounds.

    Args:
        text: As Ray wrote it.
        bounds: The applications that belong to the platform.
        pages: The folder of the error pages.

    Raises:
        UnknownConfigurationError: it lacks something that was always there.
    """
    head, sections = split(text)
    found = prefixes(sections)
    _amend_global(named(sections, "global"))
    _amend_defaults(named(sections, "defaults"), pages)
    _amend_frontend(named(sections, FRONTEND), bounds, set(found.values()))
    unrouted = named(sections, "backend default_backend")
    unrouted.drop(r"http-request return status 404")
    unrouted.close_with([returned(503, edge.UNAVAILABLE)])
    by_prefix = {each.prefix: each for each in bounds}
    for name, prefix in found.items():
        _amend_backend(named(sections, f"backend {name}"), by_prefix.get(prefix, STANDARD))
    for name in ("frontend prometheus", "listen stats"):
        _keep_local(named(sections, name))
    return "\n".join([*head, *(line for each in sections for line in (each.head, *each.lines))]) + "\n"


def split(text: str) -> tuple[list[str], list[Section]]:
    """What stands before the first section, and the sections."""
    head: list[str] = []
    sections: list[Section] = []
    for line in text.splitlines():
        if SECTION.match(line):
            sections.append(Section(line.rstrip()))
        elif sections:
            sections[-1].lines.append(line)
        else:
            head.append(line)
    return head, sections


def named(sections: Sequence[Section], head: str) -> Section:
    """The section with this first line.

    Raises:
        UnknownConfigurationError: there is none.
    """
    for section in sections:
        if section.head == head:
            return section
    raise UnknownConfigurationError(f"there is no section `{head}`")


def prefixes(sections: Sequence[Section]) -> dict[str, str]:
    """The path prefix of each application's backend, as the frontend routes them."""
    lines = "\n".join(named(sections, FRONTEND).lines)
    routed = re.findall(r"^\s*use_backend (\S+) if is_\S+$", lines, re.MULTILINE)
    paths = dict(re.findall(r"^\s*acl is_(\S+) path (\S+)$", lines, re.MULTILINE))
    if missing := set(routed) - paths.keys():
        raise UnknownConfigurationError(f"no path leads to {sorted(missing)}")
    return {name: paths[name] for name in routed}


def returned(status: int, body: str, condition: str = "", *, rule: str = "http-request") -> str:
    """A rule that answers with a problem."""
    wait = f" hdr Retry-After {edge.RETRY_AFTER_S}" if status in edge.REPEATABLE else ""
    quoted = body.replace("'", "\\u0027")  # in single quotes HAProxy takes everything as it is
    return (
        f"{rule} return status {status} content-type {PROBLEM} string '{quoted}'{wait} {condition}".rstrip()
    )


def max_connections() -> int:
    """As many as are wanted, or as this system's limit of open files allows: two for each, and pipes for a quarter."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = edge.MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else (hard - FILES_BESIDE) * 2 // 5
    return max(64, min(edge.MAX_CONNECTIONS, allowed))


def _amend_global(section: Section) -> None:
    section.drop("maxconn ")
    section.close_with([f"maxconn {max_connections() + 64}"])  # the rest is for the statistics


def _amend_defaults(section: Section, pages: Path) -> None:
    section.drop("errorfile ", least=3)
    section.drop("timeout (?:connect|client) ", least=2)
    section.drop("timeout (?:server|http-request|queue) ", least=0)
    section.drop("retry-on ")
    section.drop("retries ", least=0)
    section.close_with(
        [
            f"timeout connect {edge.CONNECT_S}s",
            f"timeout client {edge.IDLE_SENDER_S}s",
            f"timeout server {STANDARD.write_ms}ms",
            f"timeout http-request {edge.HEADERS_S}s",
            "timeout queue 1s",
            "timeout check 1s",
            "option http-buffer-request",  # a replica is not held up by who sends a small body slowly
            "retries 1",
            # What is repeated after it was sent is narrowed to questions, in each backend.
            "retry-on conn-failure empty-response response-timeout",
            *(f"errorfile {status} {pages / f'{status}.http'}" for status in edge.ERROR_PAGES),
        ]
    )


def _amend_frontend(section: Section, bounds: Sequence[Bounds], routed: set[str]) -> None:
    most = max_connections()
    per_source, urgent_from = (
        most * share // edge.MAX_CONNECTIONS for share in (edge.PER_SOURCE, edge.URGENT_FROM)
    )
    urgent = [*ALWAYS_URGENT, *(each.prefix for each in bounds if each.urgent)]
    rules = [
        f"maxconn {most}",
        "stick-table type ipv6 size 100k expire 1m store conn_cur",
        f"tcp-request connection reject if {{ src_conn_cur ge {per_source} }}",
        "tcp-request connection track-sc0 src",
        returned(404, edge.NOT_FOUND, "if { path,url_dec -m sub -i /-/routes }"),
        f"acl edge_urgent path_beg {' '.join(urgent)}",
        returned(503, edge.BUSY, f"if {{ fe_conn gt {urgent_from} }} !edge_urgent"),
    ]
    for each in bounds:
        if each.prefix not in routed and each.prefix != "/":
            condition = f"if {{ path {each.prefix} }} or {{ path_beg {each.prefix}/ }}"
            rules.append(returned(503, edge.UNAVAILABLE, condition))
    section.drop(r"http-request return status \d+ .* if routes$")
    bind = next((place for place, line in enumerate(section.lines) if line.strip().startswith("bind ")), None)
    if bind is None:
        raise UnknownConfigurationError(f"`{section.head}` binds nowhere")
    section.lines[bind + 1 : bind + 1] = [f"    {rule}" for rule in rules]


def _amend_backend(section: Section, bounds: Bounds) -> None:
    paths = f" or {{ path {' '.join(bounds.bulk_paths)} }}" if bounds.bulk_paths else ""
    large = f"{{ req.hdr(transfer-encoding) -m found }} or {{ req.hdr_val(content-length) gt {bounds.bulk_bytes} }}"
    once = f"if !METH_GET or {{ nbsrv lt 2 }}{paths}" if bounds.twice else ""
    section.drop("timeout (?:connect|server|queue|http-request) ", least=0)
    section.open_with(
        [
            f"timeout server {bounds.write_ms}ms",
            f"http-request set-timeout server {bounds.read_ms}ms if METH_GET",
            f"http-request set-timeout server {bounds.bulk_ms}ms if {large}{paths}",
            f"http-request disable-l7-retry {once}".rstrip(),
            # What is JSON comes from our code. Ray's own 404 means that a replica or proxy does not know the route yet.
            "acl is_ours res.hdr(content-type) -m beg application/",
            *(
                returned(status, body, f"if {{ status {seen} }} !is_ours", rule="http-response")
                for seen, status, body in (
                    (404, 503, edge.UNAVAILABLE),
                    (429, 429, edge.OVERLOADED),
                    (500, 500, edge.INTERNAL),
                    (502, 502, edge.BROKEN),
                    (503, 503, edge.UNAVAILABLE),
                    (504, 504, edge.LATE),
                )
            ),
        ]
    )


def _keep_local(section: Section) -> None:
    """Statistics and metrics, on loopback: Ray binds them to every interface."""
    lines = [re.sub(r"^(\s*bind )\*?:(\d+)$", r"\g<1>127.0.0.1:\2", line) for line in section.lines]
    if lines == section.lines:
        raise UnknownConfigurationError(f"`{section.head}` does not bind to every interface")
    section.lines = lines
