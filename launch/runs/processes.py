"""Which processes belong to the platform of a data folder, whoever their parent is by now.

Ray's workers and HAProxy outlive their parents. They are known by a variable in the environment that they
inherit, and, since a process may write over its own environment, by a list of ids with times of creation that
`up` keeps. Never by a name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import psutil

from tocsin.storage.embedded import process_of, read_endpoint

MARK = "_TOCSIN_RUNS_IN"  # not TOCSIN_…: those are settings, and an unknown one is refused
TERM_WAIT_S = 5.0
KILL_WAIT_S = 10.0


def mark(data: Path) -> dict[str, str]:
    """The variable that all processes of a data folder carry."""
    return {MARK: str(data.resolve())}


def children() -> list[psutil.Process]:
    """The processes that this one started itself and that are there now."""
    return psutil.Process().children()


def remember(run: Path, roots: Iterable[psutil.Process]) -> None:
    """Note in a run's folder these processes and all that descend from them."""
    found = []
    for root in roots:
        with contextlib.suppress(psutil.Error):
            family = (root, *root.children(recursive=True))
            found += [(process.pid, process.create_time()) for process in family if process.is_running()]
    temporary = run / ".processes.json.new"
    temporary.write_bytes(msgspec.json.encode(found))
    temporary.replace(run / "processes.json")


def remembered(run: Path) -> list[psutil.Process]:
    """Those that a run noted and that are still there."""
    try:
        noted = msgspec.json.decode((run / "processes.json").read_bytes(), type=list[tuple[int, float]])
    except (OSError, msgspec.MsgspecError):
        return []
    found = []
    for pid, created in noted:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if abs(process.create_time() - created) < 0.1:
                found.append(process)
    return found


def of_folder(data: Path, run: Path | None = None, *, but: Iterable[int] = ()) -> list[psutil.Process]:
    """All processes of a data folder's platforms, but this one and those it descends from.

    Args:
        data: The folder.
        run: The run whose list counts as well.
        but: Ids to leave out.
    """
    spared = {os.getpid(), *but} | {parent.pid for parent in psutil.Process().parents()}
    found = {process.pid: process for process in _marked(str(data.resolve()))}
    for process in remembered(run) if run else []:
        found.setdefault(process.pid, process)
    for process in list(found.values()):
        with contextlib.suppress(psutil.Error):
            found.update({child.pid: child for child in process.children(recursive=True)})
    return [process for pid, process in found.items() if pid not in spared]


def storage_pids(data: Path) -> list[int]:
    """The storage server of a folder and its own children (a rewrite of its file), which are stopped last."""
    endpoint = read_endpoint(data)
    process = process_of(endpoint) if endpoint is not None else None
    if process is None:
        return []
    with contextlib.suppress(psutil.Error):
        return [process.pid, *(child.pid for child in process.children(recursive=True))]
    return [process.pid]


def _marked(value: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_all(processes: Iterable[psutil.Process]) -> int:
    """Ask them to end, kill those that have not after 5 s. Returns how many there were."""
    asked = list(processes)
    for process in asked:
        with contextlib.suppress(psutil.Error):
            process.resume()
            process.terminate()
    _, alive = psutil.wait_procs(asked, timeout=TERM_WAIT_S)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=KILL_WAIT_S)
    return len(asked)
