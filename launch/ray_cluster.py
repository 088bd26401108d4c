"""A Ray cluster to run on: its environment, its start, and what has to be kept from it."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from tocsin.actor_names import NAMESPACE
from tocsin.errors import ConfigurationError
from tocsin.ports import free_port, is_free
from tocsin.settings import Settings

LOGICAL_CPUS = 8  # declared to Ray: what runs here waits more than it computes
RAY_LOG_BYTES = 5_000_000  # twice that at most
REPLICA_PORTS = 128
REPLICA_PORT_SPACE = (20_000, 32_768)  # above Ray's worker ports, below those the system hands out
# A replica that hangs: asked after a second at the most, three tries of a second each; below 5 s in all.
EDGE_HEALTH = {
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_FASTINTER": "250ms",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "3",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "3",  # whether HAProxy runs; a stand-in serves meanwhile
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "20",  # else a busy machine kills what is still starting
}
ROOT = Path(__file__).resolve().parents[1]
CODE = {"working_dir": str(ROOT), "excludes": [".venv", ".git", ".uv", ".peers", ".*_cache"]}
"""What a worker of another node runs: this checkout."""
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}


def start(scratch: Path, dashboard_port: int) -> None:
    """Start a local cluster with a dashboard on loopback; its environment is set (`ray_environment`)."""
    import ray

    ray.init(
        num_cpus=LOGICAL_CPUS,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=dashboard_port,
        namespace=NAMESPACE,
        _temp_dir=str(scratch / "ray"),
        **QUIET,
    )


def join(address: str) -> None:
    """Join a cluster that runs, and have its workers run this code.

    Raises:
        ConfigurationError: nothing listens there.
    """
    import ray

    check_reachable(address)
    ray.init(address=address, namespace=NAMESPACE, runtime_env=CODE, **QUIET)


def ensure_token(path: Path) -> None:
    """Make the cluster's token, readable by the owner alone, unless there is one."""
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))


def ray_environment(settings: Settings, scratch: Path) -> dict[str, str]:
    """What Ray and its workers find in their environment. Holds secrets, as `Settings.to_env` does."""
    replica_ports = port_block(REPLICA_PORTS)
    return settings.to_env() | {
        # Replicas share ports by SO_REUSEPORT: two platforms with the same range would take each other's requests.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replica_ports.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replica_ports.stop - 1),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # the pools rank themselves, p0 first
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(scratch / "haproxy" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(scratch / "haproxy" / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(scratch / "haproxy"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(scratch / "haproxy" / "server-state"),
        **EDGE_HEALTH,
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }


@contextlib.contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """Ray installs handlers that end the process on the spot; ours stop the platform in order."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def quieten(folder: Path) -> None:
    """Send what Ray says of its own workings to a file: standard output belongs to the command.

    Ray prints raylet messages to the driver's standard output whatever `log_to_driver` says.
    """
    import ray._private.worker as driver

    log = logging.Logger("ray-driver")  # noqa: LOG001 (of its own: it goes to the file and nowhere else)
    log.addHandler(RotatingFileHandler(folder / "ray.log", maxBytes=RAY_LOG_BYTES, backupCount=1, delay=True))

    def keep(data: dict[str, Any], ignore_prefix: bool = False) -> None:  # noqa: ARG001 (the hook's signature)
        for line in data["lines"]:
            log.info("%s", line)

    driver.print_to_stdstream = keep


def check_reachable(address: str) -> None:
    """Ask before Ray does: it would try for minutes.

    Raises:
        ConfigurationError: nothing listens at `host:port`. Other forms (`auto`, `ray://…`) are Ray's to check.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError as error:
        raise ConfigurationError(
            f"no Ray cluster answers at {address}: {error}", hint="`ray status` there shows whether it runs"
        ) from None


def port_block(size: int) -> range:
    """A run of loopback ports nobody listens on, below those the system hands out by itself.

    Raises:
        ConfigurationError: there is none.
    """
    starts = list(range(*REPLICA_PORT_SPACE, size))
    random.shuffle(starts)  # two platforms that start together are unlikely to look at the same run
    for start in starts:
        block = range(start, start + size)
        if all(is_free("127.0.0.1", port) for port in block):
            return block
    raise ConfigurationError(
        f"no {size} free ports in a row between {REPLICA_PORT_SPACE[0]} and {REPLICA_PORT_SPACE[1]}"
    )
