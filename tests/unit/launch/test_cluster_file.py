"""cluster.yaml as Ray's launcher sees it before it calls AWS, and the environment it gives the nodes."""

from __future__ import annotations

import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve._private import constants as serve_constants

from launch.ray_cluster import EDGE_HEALTH
from tests.paths import ROOT
from tocsin.errors import ConfigurationError
from tocsin.settings import SECRETS, Settings, describe

FILE = ROOT / "cluster.yaml"
COMMANDS = (
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
KEY = "an-api-key-of-some-length"


@pytest.fixture(scope="module")
def text() -> str:
    return FILE.read_text(encoding="utf-8")


@pytest.fixture
def config(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def commands(config: dict[str, Any], *kinds: str) -> list[str]:
    return [command for kind in kinds or COMMANDS for command in config[kind]]


def exported(config: dict[str, Any]) -> dict[str, str]:
    return dict(re.findall(r"^\s*export (\w+)=(\S*)", "\n".join(commands(config)), re.MULTILINE))


@pytest.fixture
def node(config: dict[str, Any], tmp_path: Path) -> Path:
    """A home folder after the file mounts and the first two setup commands."""
    (tmp_path / ".tocsin").mkdir()
    (tmp_path / ".tocsin" / "nodes.env").touch()
    for command in config["setup_commands"][:2]:
        run(tmp_path, command)
    return tmp_path


def run(home: Path, command: str) -> str:
    """As the launcher does it: in a subshell, after ~/.bashrc."""
    wrapped = f"touch ~/.bashrc; source ~/.bashrc; export A=1 && ({command})"
    done = subprocess.run(
        ["/bin/bash", "-c", wrapped],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
        text=True,
    )
    return done.stdout


def environment(home: Path) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in run(home, "env -0").split("\0") if pair)


class TestLauncher:
    def test_ray_accepts_it(self, config: dict[str, Any]) -> None:
        prepared = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
        assert prepared["available_node_types"]["head"]["max_workers"] == 0
        for kind in COMMANDS:  # nothing of the launcher's own defaults, which install another Ray, is left
            assert len(prepared[kind]) == len(config[kind]) + (
                len(config["setup_commands"])
                if kind.endswith("setup_commands") and kind != "setup_commands"
                else 0
            )

    def test_ray_would_refuse_a_misspelt_key(self, config: dict[str, Any]) -> None:
        with pytest.raises(Exception, match="idle_timeout_minute"):
            validate_config(prepare_config(config | {"idle_timeout_minute": 5}))

    def test_the_numbers_of_workers_agree(self, config: dict[str, Any]) -> None:
        workers = {name: t for name, t in config["available_node_types"].items() if name != "head"}
        assert workers.keys() == {"router", "serving"}
        for kind in workers.values():
            assert 1 <= kind["min_workers"] <= kind["max_workers"] <= config["max_workers"]
        assert sum(kind["max_workers"] for kind in workers.values()) == config["max_workers"]

    def test_work_that_asks_for_cpu_goes_to_serving_alone(self, config: dict[str, Any]) -> None:
        kinds = config["available_node_types"]
        assert [name for name, kind in kinds.items() if kind["resources"]["CPU"]] == ["serving"]
        assert all(kinds[name]["resources"][name] > 0 for name in ("router", "serving"))

    def test_one_image_for_all(self, config: dict[str, Any]) -> None:
        images = {kind["node_config"]["ImageId"] for kind in config["available_node_types"].values()}
        assert len(images) == 1

    def test_every_command_is_shell(self, config: dict[str, Any]) -> None:
        for command in commands(config):
            script = f"export RAY_HEAD_IP=10.0.0.1; ({command})"
            subprocess.run(["/bin/bash", "-n", "-c", script], check=True)


class TestSafety:
    def test_it_holds_no_secret(self, text: str, config: dict[str, Any]) -> None:
        assert not re.search(r"rediss?://[^\s]*@", text)  # credentials in a URL
        assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY", text)
        assert not re.search(r"(?i)(password|secret|token|api_key)\s*[=:]\s*['\"]?[A-Za-z0-9+/_-]{12,}", text)
        secret = {f"TOCSIN_{name.upper()}" for name in SECRETS}
        secret |= {"RAY_AUTH_TOKEN", "RAY_REDIS_PASSWORD", "AWS_SECRET_ACCESS_KEY"}
        assert not exported(config).keys() & secret

    def test_the_dashboard_is_for_the_head_alone(self, config: dict[str, Any]) -> None:
        started = "\n".join(commands(config, "head_start_ray_commands", "worker_start_ray_commands"))
        assert re.findall(r"--dashboard-host[= ](\S+)", started) == ["127.0.0.1"]

    def test_every_node_has_the_token_and_asks_for_it(self, config: dict[str, Any]) -> None:
        assert exported(config)["RAY_AUTH_MODE"] == "token"
        assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"

    def test_no_node_starts_without_its_settings(self, config: dict[str, Any]) -> None:
        for command in commands(config, "head_start_ray_commands", "worker_start_ray_commands"):
            if "ray start" in command:
                assert 'test -n "$TOCSIN_REDIS_URL" && tocsin config' in command

    def test_serve_listens_for_others_only_behind_a_key(self, config: dict[str, Any], node: Path) -> None:
        assert "--http-host=0.0.0.0" in "\n".join(commands(config, "head_start_ray_commands"))
        with pytest.raises(ConfigurationError, match="TOCSIN_API_KEY is empty"):
            Settings.from_env(environment(node))


class TestEnvironment:
    def test_every_variable_of_ours_is_a_setting(self, config: dict[str, Any]) -> None:
        known = {name for name, _, _ in describe()}
        used = set(re.findall(r"\bTOCSIN_[A-Z0-9_]+", "\n".join(commands(config))))
        assert used
        assert used <= known

    def test_every_variable_of_serve_is_one_it_reads(self, config: dict[str, Any]) -> None:
        source = Path(serve_constants.__file__).read_text(encoding="utf-8")
        names = {name for name in exported(config) if name.startswith("RAY_SERVE_")}
        assert "RAY_SERVE_ENABLE_HA_PROXY" in names
        assert {name for name in names if f'"{name}"' not in source} == set()

    def test_the_edge_is_watched_as_on_one_machine_and_installed_where_ray_looks(
        self, config: dict[str, Any]
    ) -> None:
        given = exported(config)
        assert {name: given[name] for name in EDGE_HEALTH} == EDGE_HEALTH
        assert given["RAY_SERVE_HAPROXY_BINARY_PATH"] == '"$HOME/.tocsin/edge/haproxy"'
        assert any("launch.edge.install ~/.tocsin/edge" in one for one in commands(config, "setup_commands"))

    def test_what_the_operator_exports_reaches_the_platform(self, node: Path) -> None:
        url = "rediss://user:p$a`s's@redis.internal:6380/0?a=1&b=2"
        declared = subprocess.run(
            ["/bin/bash", "-c", 'export -p | grep "^declare -x TOCSIN_"'],
            env={"TOCSIN_REDIS_URL": url, "TOCSIN_API_KEY": KEY, "TOCSIN_P0_ROUTERS": "4"},
            capture_output=True,
            check=True,
        )
        (node / ".tocsin" / "nodes.env").write_bytes(declared.stdout)
        settings = Settings.from_env(environment(node))
        assert (settings.redis_url, settings.api_key, settings.p0_routers) == (url, KEY, 4)
        assert settings.host == "0.0.0.0"

    def test_setting_up_again_changes_nothing(self, config: dict[str, Any], node: Path) -> None:
        before = (node / ".bashrc").read_text(encoding="utf-8")
        for command in config["setup_commands"][:2]:
            run(node, command)
        assert (node / ".bashrc").read_text(encoding="utf-8") == before == ". ~/.tocsin/profile\n"
        assert environment(node)["OMP_NUM_THREADS"] == "1"
