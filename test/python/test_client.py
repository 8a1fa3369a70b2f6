"""
A client in Python, as docs/integration.md shows it: made from openapi.yaml alone and run against the service. The guide's own
code and commands are what runs here; test/e2e/client.test.ts does the same in TypeScript.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from fhir.resources.R4B.bundle import Bundle
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from service import ROOT, Service, running_service

GUIDE = (ROOT / "docs" / "integration.md").read_text(encoding="utf-8")

# Says what the program has in hand at its end.
CONFESSION = """
import json
print(json.dumps({
    "ping": ping, "event": event, "id": str(id), "analysis": analysis.to_dict(), "bundle": bundle.to_dict(), "message": message,
    "key": key.token, "statuses": [answer.status_code for answer in (posted, read, unchanged, replayed, refused)],
    "etags": [read.headers["etag"], unchanged.headers["etag"]], "unchanged": unchanged.content.decode(),
    "replayed": [str(ok(replayed).id), replayed.headers["idempotency-replayed"]], "refused": refused.parsed.to_dict(),
}))
"""


def code(info: str) -> str:
    """The code blocks whose info string is `info`, one after the other, without the indentation of a list."""
    blocks = [text for _, found, text in re.findall(r"^( *)```(.+)\n([\s\S]*?)\n\1```$", GUIDE, re.MULTILINE) if found == info]
    assert blocks, f"the guide has no block {info}"
    return "\n\n".join(textwrap.dedent(block) for block in blocks) + "\n"


INSTALL, GENERATE, RUN = code("sh python").splitlines()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(line: str, folder: Path, **environment: str) -> str:
    """Runs a command of the guide; `python` and what pip installed are those that run this test."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    here = {"cwd": folder, "env": os.environ | {"PATH": path} | environment}
    result = subprocess.run(["bash", "-c", line], check=False, capture_output=True, text=True, **here)
    assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service(WEBHOOK_ALLOW_NETWORKS="127.0.0.0/8") as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guide says lies in the client's folder, and the client itself."""
    folder = tmp_path_factory.mktemp("client")
    shutil.copy(ROOT / "openapi.yaml", folder)
    for name in ("field-1.png", "field-2.png"):
        shutil.copy(ROOT / "samples" / "smear.png", folder / name)
    (folder / "generate.yaml").write_text(code("yaml generate.yaml"))
    (folder / "client.py").write_text(code("python client.py") + CONFESSION)
    command(GENERATE, folder)
    return folder


@pytest.fixture(scope="module")
def told(service: Service, folder: Path) -> dict:
    """What the guide's program had in hand at its end."""
    here = RUN.replace("http://127.0.0.1:3000", service.address).replace(" 8080 ", f" {free_port()} ")
    return json.loads(command(here, folder, KEY=service.key).splitlines()[-1])


def test_guide_installs_what_is_installed_here() -> None:
    requirements = [line.split("#")[0].strip() for line in (ROOT / "test/python/requirements.txt").read_text().splitlines()]
    for package in shlex.split(INSTALL)[2:]:
        assert any(line == package or re.match(rf"{package}[=<>]", line) for line in requirements), package


def test_order_is_stored_and_replayed(told: dict) -> None:
    assert told["statuses"] == [202, 200, 304, 202, 422]
    assert told["replayed"] == [told["id"], "true"]
    assert told["refused"]["type"] == "https://leukodiff.dev/problems/idempotency-key-reused"


def test_events_arrive_and_verify(told: dict) -> None:
    assert told["ping"]["type"] == "webhook.ping"
    assert told["event"]["type"] == "analysis.completed"
    assert told["event"]["data"]["id"] == told["id"]


def test_result_is_read(told: dict) -> None:
    assert told["analysis"]["status"] == "completed"
    assert [image["filename"] for image in told["analysis"]["images"]] == ["field-1.png", "field-2.png"]
    assert told["analysis"]["differential"]["totalWbc"] > 0
    assert told["etags"][0] == told["etags"][1] != ""
    assert told["unchanged"] == ""


def test_bundle_is_fhir_r4(told: dict) -> None:
    bundle = Bundle.model_validate(told["bundle"])
    report = bundle.entry[0].resource
    assert report.get_resource_type() == "DiagnosticReport"
    assert report.status == "preliminary"
    assert len(report.result) > 10


def test_message_is_hl7_v2(told: dict) -> None:
    message = parse_message(told["message"], validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
    assert message.validate()
    order = message.oru_r01_patient_result.oru_r01_order_observation
    assert order.obr.obr_2.value == "ORD-5"
    assert len(order.oru_r01_observation) > 10


def test_key_by_curl(service: Service, tmp_path: Path) -> None:
    # The key lies where the guide finds it: the service runs in another folder here.
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "first-key").write_text(service.key)
    made = json.loads(command(code("sh key").replace("http://127.0.0.1:3000", service.address), tmp_path))
    assert made["token"].startswith("lk_")
    assert made["key"]["scopes"] == ["submit", "read"]


def test_receiver_by_curl(service: Service, tmp_path: Path) -> None:
    here = code("sh receiver").replace("http://127.0.0.1:3000", service.address)
    made = json.loads(command(here, tmp_path, KEY=service.key))
    assert made["secret"].startswith("whsec_")
    assert made["eventTypes"] == ["analysis.completed", "analysis.failed"]
