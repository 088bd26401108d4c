"""ops/serve.yaml against the code it deploys."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel
from ray.serve.config import ProxyLocation
from ray.serve.schema import HTTPOptionsSchema, LoggingConfig, ServeApplicationSchema, ServeDeploySchema

from serve_deployments.applications import APPLICATIONS
from tests.paths import ROOT

FILE = ROOT / "ops" / "serve.yaml"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return loaded


def unknown(part: dict[str, Any], schema: type[BaseModel]) -> set[str]:
    return part.keys() - schema.model_fields.keys()


def test_serve_accepts_it(config: dict[str, Any]) -> None:
    accepted = ServeDeploySchema.model_validate(config)
    assert accepted.proxy_location is ProxyLocation.EveryNode
    assert (accepted.http_options.host, accepted.http_options.port) == ("127.0.0.1", 8000)
    assert accepted.logging_config is not None
    assert accepted.logging_config.encoding == "JSON"


def test_no_key_would_be_ignored(config: dict[str, Any]) -> None:
    assert not unknown(config, ServeDeploySchema)
    assert not unknown(config["http_options"], HTTPOptionsSchema)
    assert not unknown(config["logging_config"], LoggingConfig)
    for application in config["applications"]:
        assert not unknown(application, ServeApplicationSchema)


def test_a_misspelt_key_would_be_found(config: dict[str, Any]) -> None:
    misspelt = config | {"proxy_locations": "HeadOnly"}
    ServeDeploySchema.model_validate(misspelt)  # Serve says nothing
    assert unknown(misspelt, ServeDeploySchema) == {"proxy_locations"}


def test_it_names_the_applications_of_the_code_under_their_prefixes(config: dict[str, Any]) -> None:
    found = {application["name"]: application["route_prefix"] for application in config["applications"]}
    assert found == {name: spec.prefix for name, spec in APPLICATIONS.items()}


def test_every_import_path_is_the_builder_of_its_application(config: dict[str, Any]) -> None:
    for application in config["applications"]:
        module, _, attribute = application["import_path"].partition(":")
        builder = getattr(importlib.import_module(module), attribute)
        assert callable(builder)
        assert attribute == APPLICATIONS[application["name"]].builder
        assert builder.__name__ == attribute


def test_it_repeats_nothing_that_stands_in_code(config: dict[str, Any]) -> None:
    assert all(
        application.keys() == {"name", "route_prefix", "import_path"}
        for application in config["applications"]
    )
