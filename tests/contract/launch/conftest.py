"""The real HAProxy with the configuration Ray writes and our bounds, before replicas that are scripted; no Ray runs."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from launch.edge.install import bundled_haproxy, install
from launch.edge.wrapper import STAND_IN_PID, prepare
from tests.support import eventually
from tocsin.ports import free_port


class Replica:
    """Answers by path: `/hang` never, `/status/N` as Ray would in plain text; counts what it was asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.hung = threading.Event()
        replica = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                if self.path == "/-/healthz":
                    replica.end_of_hanging()
                    self.reply(200, b"success", "text/plain")
                    return
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                replica.seen.append(f"{self.command} {self.path} {len(body)}")
                if "/hang" in self.path:
                    time.sleep(12)
                replica.end_of_hanging()
                if "/status/" in self.path:
                    self.reply(int(self.path.rpartition("/")[2]), b"from Ray", "text/plain")
                else:
                    self.reply(200, b"{}", "application/json")

            do_GET = do_POST = answer  # noqa: N815 (the names it is called by)

            def reply(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # HAProxy went away: what the test is about

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def end_of_hanging(self) -> None:
        """While `hung` is set the replica does not even answer health checks."""
        while self.hung.is_set():
            time.sleep(0.02)

    def close(self) -> None:
        self.hung.clear()
        self._server.shutdown()
        self._server.server_close()


class Edge:
    """HAProxy as the platform configures it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = folder / "node" / "haproxy.cfg"
        self.replicas: list[Replica] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.program = install(folder / "haproxy")
        options = HTTPOptions(host="127.0.0.1", port=self.port)
        self.cfg = HAProxyConfig(
            http_options=options,
            socket_path=str(folder / "node" / "admin.sock"),
            server_state_base=str(folder / "node"),
            server_state_file=str(folder / "node" / "server-state"),
            metrics_socket_path=str(folder / "node" / "metrics.sock"),
            metrics_port=free_port(),
            stats_port=free_port(),
            health_check_inter="1s",
            health_check_fall=3,
            is_head=True,
        )
        self.api = HAProxyApi(self.cfg, config_file_path=str(self.config))

    def replica(self) -> Replica:
        made = Replica()
        self.replicas.append(made)
        return made

    def write(self, **applications: list[Replica]) -> None:
        """Ray's configuration for these applications, by name."""
        prefixes = {name: "/" if name == "operations" else f"/v1/{name}" for name in applications}
        self.api.set_backend_configs(
            {
                f"http-{name}": BackendConfig(
                    name=f"http-{name}",
                    path_prefix=prefixes[name],
                    app_name=name,
                    servers=[
                        ServerConfig(f"SERVE_REPLICA-{name}-{number}", "127.0.0.1", one.port)
                        for number, one in enumerate(replicas)
                    ],
                )
                for name, replicas in applications.items()
            }
        )
        self.api._generate_config_file_internal()

    def start(self, **applications: list[Replica]) -> None:
        """HAProxy alone, amended, without a watcher."""
        self.write(**applications)
        prepare(self.config, self.folder / "haproxy", carry_on=False)
        self.run([str(bundled_haproxy()), "-db", "-f", str(self.config)])

    def as_ray_does(self, *more: str) -> subprocess.Popen[bytes]:
        """What was installed, started with the arguments Ray gives to HAProxy; this process is the manager."""
        return self.run([str(self.program), "-db", "-f", str(self.config), "-dR", *more])

    def stand_in(self) -> psutil.Process | None:
        """The one that serves now."""
        try:
            return psutil.Process(int((self.config.parent / STAND_IN_PID).read_text()))
        except (OSError, psutil.NoSuchProcess):
            return None

    def watchers(self) -> list[psutil.Process]:
        """Those that wait beside an HAProxy of this test."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if {"launch.edge.stand_in", str(self.config)} <= set(process.cmdline()):
                    found.append(process)
        return found

    def run(self, command: list[str]) -> subprocess.Popen[bytes]:
        log = (self.folder / "haproxy.log").open("ab")
        process = subprocess.Popen(command, stdout=log, stderr=log)
        self.processes.append(process)
        eventually(
            lambda: process.poll() is not None or asyncio.run(self.api._get_running_pid()) == process.pid,
            what="HAProxy",
        )
        assert process.poll() is None, (self.folder / "haproxy.log").read_text()
        return process

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=30, **more)

    def post(self, path: str, **more: Any) -> httpx2.Response:
        return httpx2.post(self.url + path, timeout=30, **more)

    def stop(self) -> None:
        self.config.unlink(missing_ok=True)  # as the platform removes its working files
        for process in self.processes:
            process.kill()
            process.wait(timeout=10)
        if stand_in := self.stand_in():
            stand_in.kill()
        eventually(lambda: not self.watchers(), what="the end of the watchers")
        for replica in self.replicas:
            replica.close()


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    made = Edge(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def held() -> Callable[[Callable[[], httpx2.Response]], tuple[httpx2.Response, float]]:
    """An answer, and how long its caller was held."""

    def ask(call: Callable[[], httpx2.Response]) -> tuple[httpx2.Response, float]:
        began = time.monotonic()
        answer = call()
        return answer, time.monotonic() - began

    return ask
