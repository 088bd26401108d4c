"""What Ray starts as HAProxy (`RAY_SERVE_HAPROXY_BINARY_PATH`): it amends the configuration, then becomes HAProxy.

    Ray's manager ──starts──► wrapper: amend, leave a watcher behind, exec ──► HAProxy, under the same process id
                                 └── watcher: should HAProxy die, a stand-in serves until Ray starts another

Ray needs tens of seconds to find a dead HAProxy, and the next one begins without a single route. So the one that starts
while a stand-in runs begins with the stand-in's routes, and takes its socket over.

Standard library only, and few modules of it: this runs at every change of a replica.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

from launch.edge.bounds import read_bounds
from launch.edge.configuration import amended

BOUNDS_FILE = "bounds.json"
STAND_IN_CONFIG = "stand-in.cfg"
STAND_IN_SOCKET = (
    "spare.sock"  # beside Ray's `admin.sock`, and no longer: paths of sockets end at 97 characters
)
STAND_IN_PID = "stand-in.pid"
STAND_IN_LOG = "stand-in.log"
ADMIN_SOCKET = re.compile(r"^(\s*stats socket )(\S+)", re.MULTILINE)
APPLICATION = re.compile(r"^\s*use_backend ", re.MULTILINE)
ANSWER_S = 1.0


def main(arguments: list[str]) -> None:
    """Never returns: the process goes on as HAProxy.

    Args:
        arguments: The binary, the folder that was installed, then whatever Ray says to HAProxy.
    """
    binary, folder, given = arguments[0], Path(arguments[1]), arguments[2:]
    if "-f" not in given:
        os.execv(binary, [binary, *given])  # noqa: S606 (a question such as `-v`)
    config = Path(given[given.index("-f") + 1])
    taken_over: list[str] = []
    if "-sf" not in given:
        taken_over = take_over(config)
    prepare(config, folder, carry_on=bool(taken_over))
    leave_watcher(binary, config)
    os.execv(binary, [binary, *given, *taken_over])  # noqa: S606 (HAProxy, which Ray asked for)


def prepare(config: Path, folder: Path, *, carry_on: bool) -> None:
    """Amend Ray's configuration in its place, and write that of a stand-in.

    Args:
        config: The file Ray wrote.
        folder: The installed files.
        carry_on: Another HAProxy serves: where Ray's file has no routes yet, keep those of the one before.
    """
    ours = config.with_name(STAND_IN_CONFIG)
    text = amended(config.read_text(encoding="utf-8"), read_bounds(folder / BOUNDS_FILE), folder / "pages")
    if carry_on and not APPLICATION.search(text) and ours.exists():
        text = with_socket(ours.read_text(encoding="utf-8"), admin_socket(text))
    replace_file(config, text)
    replace_file(ours, with_socket(text, stand_in_socket(text)))


def take_over(config: Path) -> list[str]:
    """Arguments that take the listening socket from whoever serves with this configuration; none, if nobody does."""
    text = config.read_text(encoding="utf-8")
    for name in (stand_in_socket(text), admin_socket(text)):
        pid = process_behind(name)
        if pid is not None:
            return ["-x", name, "-sf", str(pid)]
    return []


def process_behind(name: str) -> int | None:
    """The HAProxy that answers at an admin socket."""
    try:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(ANSWER_S)
            channel.connect(name)
            channel.sendall(b"show info\n")
            found = re.search(rb"^Pid: (\d+)$", read_all(channel), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def read_all(channel: socket.socket) -> bytes:
    """Everything until the other side closes."""
    parts: list[bytes] = []
    while part := channel.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def admin_socket(text: str) -> str:
    """The admin socket that a configuration names."""
    found = ADMIN_SOCKET.search(text)
    return found[2] if found else ""


def stand_in_socket(text: str) -> str:
    """The admin socket of a stand-in, beside the one that a configuration names."""
    return str(Path(admin_socket(text)).with_name(STAND_IN_SOCKET))


def with_socket(text: str, name: str) -> str:
    """The same configuration with another admin socket."""
    return ADMIN_SOCKET.sub(lambda found: found[1] + name, text, count=1)


def replace_file(path: Path, text: str) -> None:
    """In one step: who reads it sees the old text or the new."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def leave_watcher(binary: str, config: Path) -> None:
    """A process of its own, no child of HAProxy, that waits for the end of this process id."""
    watched, manager = os.getpid(), os.getppid()
    given = [binary, str(config), *map(str, (watched, manager, parent_of(manager)))]
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(config.with_name(STAND_IN_LOG), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    command = [sys.executable, "-S", "-m", "launch.edge.stand_in", *given]
    os.execv(sys.executable, command)  # noqa: S606 (ourselves)


def parent_of(pid: int) -> int:
    """The parent of a process; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
    except OSError:
        return 0


if __name__ == "__main__":
    main(sys.argv[1:])
