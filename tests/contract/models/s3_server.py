"""A small S3 in memory: what the registry asks of one, over HTTP.

A bucket exists from the first request on; but for `missing`, which never does, and `denied`, which refuses everything.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve until left; yields `host:port`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler({}, threading.Lock()))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(objects: dict[str, bytes], lock: threading.Lock) -> type[BaseHTTPRequestHandler]:  # noqa: C901 (one table of requests)
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            url = urlsplit(self.path)
            path, query = unquote(url.path).lstrip("/"), parse_qs(url.query)
            bucket = path.partition("/")[0]
            if bucket == "missing":
                self.answer(404, _error("NoSuchBucket"))
            elif bucket == "denied" or not self.headers.get("authorization", "").startswith(
                "AWS4-HMAC-SHA256"
            ):
                self.answer(403, _error("AccessDenied"))
            else:
                with lock:
                    self.answer(*self.act(path, query, body))

        do_GET = do_PUT = do_DELETE = do_POST = handle_any  # noqa: N815 (names of http.server)

        def act(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, bytes]:  # noqa: PLR0911 (as above)
            match self.command:
                case "GET" if "list-type" in query:
                    return 200, _listing(objects, path, query.get("prefix", [""])[0])
                case "GET" if path not in objects:
                    return 404, _error("NoSuchKey")
                case "GET":
                    return 200, objects[path]
                case "PUT" if self.headers.get("if-none-match") == "*" and path in objects:
                    return 412, _error("PreconditionFailed")
                case "PUT":
                    objects[path] = body
                    return 200, b""
                case "DELETE":
                    objects.pop(path, None)
                    return 204, b""
                case _:  # POST ?delete: several at once
                    keys = re.findall(r"<Key>(.*?)</Key>", body.decode())
                    for key in keys:
                        objects.pop(f"{path.rstrip('/')}/{key}", None)
                    deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
                    return 200, f"<DeleteResult>{deleted}</DeleteResult>".encode()

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.send_header("etag", f'"{md5(body, usedforsecurity=False).hexdigest()}"')
            self.send_header("last-modified", "Fri, 27 Nov 2026 12:00:00 GMT")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in http.server)
            pass

    return Handler


def _listing(objects: dict[str, bytes], bucket: str, prefix: str) -> bytes:
    start = f"{bucket.rstrip('/')}/"
    contents = "".join(
        f"<Contents><Key>{escape(path.removeprefix(start))}</Key><Size>{len(content)}</Size>"
        "<LastModified>2026-11-27T12:00:00.000Z</LastModified></Contents>"
        for path, content in sorted(objects.items())
        if path.startswith(f"{start}{prefix}")
    )
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?>\n<Error><Code>{code}</Code></Error>'.encode()
