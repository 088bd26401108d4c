"""The processes that Ray's node stands on, as a part to look after."""

from __future__ import annotations

import atexit
import contextlib
from typing import Any

from launch.runs.watcher import RestartNeededError

VITAL = frozenset({"raylet", "gcs_server"})
"""The dashboard and the monitor may die: nothing is delivered through them."""


class RayPart:
    """The local node. It cannot be brought back inside a process that was its driver: `up` starts over."""

    name = "ray"

    def dead(self) -> list[str]:
        """Which vital processes have ended, by Ray's own names; none where there is no local node."""
        import ray._private.worker as driver

        node: Any = driver._global_node  # noqa: SLF001 (there is no public way to ask)
        return [] if node is None else sorted({kind for kind, _ in node.dead_processes() if kind in VITAL})

    def alive(self) -> bool:
        """Whether all of them run."""
        return not self.dead()

    def restore(self) -> None:
        """Ask for a new start.

        Raises:
            RestartNeededError: always.
        """
        raise RestartNeededError(self.name, f"{' and '.join(self.dead())} ended unexpectedly")


def forget_ray() -> None:
    """Leave a node that is dead without talking to it: Ray would wait for it for minutes."""
    import ray._private.worker as driver

    with contextlib.suppress(Exception):  # only spares a wait at exit
        atexit.unregister(driver.shutdown)
