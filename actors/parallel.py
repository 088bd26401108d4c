"""Independent fits spread over the cores by Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from models.training.training import Run


@contextmanager
def spread() -> Iterator[Run]:
    """A `map` whose calls run as Ray tasks, in a small cluster of its own that ends with the block."""
    started = not ray.is_initialized()
    if started:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False)
    task: Any = ray.remote(lambda work, item: work(item))

    def run(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
        found: list[Any] = ray.get([task.remote(work, item) for item in items])
        return found

    try:
        yield run
    finally:
        if started:
            ray.shutdown()
