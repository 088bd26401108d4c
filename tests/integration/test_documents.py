"""What the documents promise: README examples as printed, the Serve file as it lies, the client's wheel alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import msgspec
import pytest

from launch.platform import Platform
from tests.paths import ROOT
from tests.support import eventually
from tocsin.settings import Settings

pytestmark = pytest.mark.integration

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(command: list[str], **extra: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | extra, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_curl_examples_work_as_printed(settings: Settings, trained: list[str]) -> None:
    here = {"ADVERTISER": trained[0], "ID": ""}
    seen = 0
    for block in blocks("bash"):
        for command in re.split(r"\n(?=curl|\.venv)", block):
            if not command.startswith("curl"):
                continue
            answer = msgspec.json.decode(
                run(["bash", "-c", command.replace("http://127.0.0.1:8000", settings.base_url)], **here)
            )
            if "rejected" in answer:
                here["ID"] = answer["receipts"][0]["id"]
                assert set(answer) == {"accepted", "rejected", "receipts", "errors"}
            assert "status" not in answer, answer  # a problem detail
            seen += 1
    assert seen == 6


def test_the_receipt_in_the_readme_has_the_fields_of_a_real_one(settings: Settings) -> None:
    (printed,) = (msgspec.json.decode(block) for block in blocks("json"))
    real = httpx2.post(
        f"{settings.base_url}/v1/notifications", json={"type": "emergency", "title": "t", "recipient": "r"}
    ).json()
    assert printed.keys() == real.keys()
    assert printed["receipts"][0].keys() == real["receipts"][0].keys()


def test_the_python_example_works_as_printed(settings: Settings) -> None:
    (example,) = blocks("python")
    printed = run([sys.executable, "-c", example.replace("http://127.0.0.1:8000", settings.base_url)])
    assert printed.splitlines() == ["p0 delivered", "1000 accepted, 0 rejected"]


def test_the_client_installs_without_the_platform(tmp_path: Path) -> None:
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    run([uv, "build", "-q", "--wheel", "--out-dir", str(tmp_path / "dist"), str(ROOT)])
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run([uv, "venv", "-q", "--python", sys.executable, str(tmp_path / "venv")])
    python = tmp_path / "venv" / "bin" / "python"
    run([uv, "pip", "install", "-q", "--python", str(python), str(wheel)])
    run([str(python), "-I", "-c", "from tocsin import AsyncClient, Client; Client().close()"])
    installed = run([uv, "pip", "list", "--python", str(python), "--format", "freeze"])
    assert not {"ray", "redis", "numpy", "pandas"} & {line.split("==")[0] for line in installed.splitlines()}
    refused = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "tocsin"), "up"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "the client alone" in refused.stderr


def test_the_serve_file_deploys_the_same_applications(platform: Platform) -> None:
    from serve_deployments.applications import APPLICATIONS

    serve = Path(sys.executable).with_name("serve")
    run([str(serve), "deploy", "-a", platform.dashboard_url, "ops/serve.yaml"])

    def running() -> bool:
        token = platform.token_path.read_text(encoding="ascii")
        answer = httpx2.get(
            f"{platform.dashboard_url}/api/serve/applications/",
            headers={"authorization": f"Bearer {token}"},
            timeout=10,
        ).json()
        found = {name: app["status"] for name, app in answer["applications"].items()}
        return found.keys() == APPLICATIONS.keys() and set(found.values()) == {"RUNNING"}

    # Serve builds each application in a process of its own, which imports all of them: slow where cores are few.
    eventually(running, timeout_s=200, what="every application running")
    url = platform.settings.base_url
    eventually(lambda: httpx2.get(url + "/readyz").status_code == 200, what="ready")
    sent = httpx2.post(f"{url}/v1/notifications", json={"type": "emergency", "title": "t", "recipient": "r"})
    assert sent.status_code == 202
