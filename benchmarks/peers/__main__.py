"""Every library in turn on one server, then ours on the same: `python -m benchmarks.peers`, one JSON line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack

from benchmarks.harness.figures import Figures
from benchmarks.harness.run import Options, run, say
from benchmarks.peers import contest, environment, report
from benchmarks.peers.libraries import PEERS, VARIANTS, Library, Runtime
from benchmarks.routing import lanes
from tocsin.settings import Settings
from tocsin.storage.embedded import EmbeddedServer, ServerEndpoint

WINDOW_S = 15.0


def measure(settings: Settings, options: Options) -> Figures:
    """Peers first, on an empty server each; ours last, whose flood leaves the server the most to tidy up."""
    environs = _environments()
    with ExitStack() as stack:
        server = EmbeddedServer(settings.data_path, say)
        stack.callback(server.stop)
        endpoint = server.start()
        windows = {
            library.name: _measure_peer(library, environs.get(library.runtime), endpoint, settings, options)
            for library in (*PEERS, *VARIANTS)
        }
        say(f"peers: ours for {options.seconds:g} s")
        ours = lanes.measure_on(endpoint, settings, options, lanes.measure_flood)
    return report.assemble(ours, windows)


def _environments() -> dict[Runtime, Mapping[str, str]]:
    found = {}
    for runtime in Runtime:
        try:
            found[runtime] = environment.make(runtime)
        except environment.Unavailable as reason:
            say(f"peers: no {runtime} library is measured: {reason}")
    return found


def _measure_peer(
    library: Library,
    environ: Mapping[str, str] | None,
    endpoint: ServerEndpoint,
    settings: Settings,
    options: Options,
) -> contest.Window | None:
    if environ is None:
        return None
    say(f"peers: {library.name} for {options.seconds:g} s")
    try:
        return contest.run(
            library,
            environ,
            url=endpoint.url,
            server_pid=endpoint.pid,
            folder=settings.data_path / library.name,
            seconds=options.seconds,
        )
    except contest.Failed as reason:
        say(f"peers: {library.name} was not measured: {reason}")
        return None


def main(argv: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    description = "The same job on Celery, Dramatiq, taskiq, BullMQ and ours."
    return run("peers", description, measure, argv, seconds=WINDOW_S)


if __name__ == "__main__":
    sys.exit(main())
