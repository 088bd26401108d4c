from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from launch.ray_cluster import EDGE_HEALTH, ROOT, quieten


def test_the_checkout_is_found_from_here() -> None:
    assert (ROOT / "pyproject.toml").is_file()
    assert (ROOT / "launch").is_dir()


def test_ray_still_prints_through_the_hook_that_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`quieten` replaces a private function of Ray. An upgrade that fails here moved or changed
    `ray._private.worker.print_to_stdstream`: what Ray says would be on the command's standard output again.
    """
    from ray._private import worker

    assert list(inspect.signature(worker.print_to_stdstream).parameters) == ["data", "ignore_prefix"]
    assert "print_to_stdstream" in inspect.getsource(worker.listen_error_messages) + inspect.getsource(worker)
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)  # put back at the end
    quieten(tmp_path)
    worker.print_to_stdstream({"lines": ["a raylet said so"]}, ignore_prefix=False)
    assert (tmp_path / "ray.log").read_text() == "a raylet said so\n"


def test_what_we_say_of_the_edge_is_what_ray_reads() -> None:
    """An upgrade that fails here renamed a variable: the edge would wait longer for replicas that hang."""
    from ray.serve._private import constants, haproxy

    source = Path(constants.__file__).read_text(encoding="utf-8")
    assert {name for name in EDGE_HEALTH if f'"{name}"' not in source} == set()
    assert "RAY_SERVE_HAPROXY_BINARY_PATH" in inspect.getsource(haproxy._resolve_haproxy_binary)
