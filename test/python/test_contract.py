"""
The service against its contract: schemathesis thinks up thousands of requests from openapi.yaml, good and bad, alone and in
sequences, and holds every answer against what the contract says of it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from service import ROOT, Service, running_service

LEAST_CASES = 5_000

# No answer may be a failure of the service, or anything that the contract does not say of its address.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
)

# Addresses that have to be seen answering well, or the run has seen nothing but refusals.
ANSWERED = (
    "POST /analyze",
    "GET /analyses",
    "GET /analyses/{id}",
    "GET /analyses/{id}/cells",
    "GET /analyses/{id}/cells/{cellId}/crop.png",
    "GET /analyses/{id}/fhir",
    "GET /analyses/{id}/hl7",
    "GET /analyses/{id}/images/{index}/overlay.png",
    "GET /audit",
    "POST /keys",
    "PATCH /webhook-endpoints/{id}",
    "GET /webhook-endpoints/{id}/deliveries",
)

SETTINGS = """
request-timeout = 60
continue-on-failure = true

# The same requests every time: it needs no seed.
[generation]
deterministic = true
no-shrink = true
max-examples = 150

[phases.stateful]
max-steps = 6

[phases.stateful.generation]
max-examples = 60

# What is there, beside what is thought up. Nothing is deleted by it: that is for what the run itself has made.
[dictionaries]
analysis = {{ values = [{analysis}] }}
endpoint = {{ values = [{endpoint}] }}
delivery = {{ values = [{delivery}] }}
key = {{ values = [{key}] }}
image = {{ values = [0, 1] }}
cell = {{ values = [{cells}] }}

[[operations]]
include-path-regex = "^/analyses/"
include-method = ["GET", "POST", "PATCH"]
[operations.parameters]
"path.id" = {{ dictionary = "analysis", probability = 0.7 }}
"path.index" = {{ dictionary = "image", probability = 0.7 }}
"path.cellId" = {{ dictionary = "cell", probability = 0.7 }}

[[operations]]
include-path-regex = "^/webhook-endpoints/"
include-method = ["GET", "POST", "PATCH"]
[operations.parameters]
"path.id" = {{ dictionary = "endpoint", probability = 0.7 }}

[[operations]]
include-path-regex = "^/webhook-deliveries/"
[operations.parameters]
"path.id" = {{ dictionary = "delivery", probability = 0.7 }}

[[operations]]
include-path-regex = "^/keys/"
include-method = "GET"
[operations.parameters]
"path.id" = {{ dictionary = "key", probability = 0.7 }}
"""


@dataclass(frozen=True)
class Present:
    """Ids of what is there before the run."""

    analysis: str
    cells: list[str]
    endpoint: str
    delivery: str
    key: str


def seeded(service: Service) -> Present:
    """An analysis with two images, a receiver that nobody listens at, a delivery to it, and a key."""
    with httpx.Client(base_url=service.address, headers={"authorization": f"Bearer {service.key}"}, timeout=90) as client:

        def made(path: str, **more) -> dict:
            return client.post(path, **more).raise_for_status().json()

        image = (ROOT / "samples" / "smear.png").read_bytes()
        files = [("images", (name, image)) for name in ("a.png", "b.png")]
        analysis = made("/analyze", files=files, data={"accessionNumber": "H-26-1"})["id"]
        for _ in range(120):
            if client.get(f"/analyses/{analysis}").json()["status"] == "completed":
                break
            time.sleep(0.5)
        cells = [cell["id"] for cell in client.get(f"/analyses/{analysis}/cells").json()["items"]]
        endpoint = made("/webhook-endpoints", json={"url": "http://127.0.0.1:1025/", "eventTypes": ["analysis.signed"]})["id"]
        delivery = made(f"/webhook-endpoints/{endpoint}/ping")["id"]
        key = made("/keys", json={"name": "present", "scopes": ["read"]})["key"]["id"]
        return Present(analysis, cells[:3], endpoint, delivery, key)


def settings(present: Present) -> str:
    def listed(*values: str) -> str:
        return ", ".join(json.dumps(value) for value in values)

    return SETTINGS.format(
        analysis=listed(present.analysis),
        cells=listed(*present.cells),
        endpoint=listed(present.endpoint),
        delivery=listed(present.delivery),
        key=listed(present.key),
    )


@dataclass(frozen=True)
class Run:
    report: dict
    output: str


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    # Every case comes from one key, as fast as it can; what waits for a result shall not wait long.
    limits = {"RATE_LIMIT_PER_MINUTE": "0", "MAX_WAIT_SECONDS": "1", "MAX_QUEUE_DEPTH": "100000"}
    with running_service(WEBHOOK_ALLOW_NETWORKS="127.0.0.0/8", **limits) as running:
        yield running


@pytest.fixture(scope="module")
def run(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("contract")
    (folder / "schemathesis.toml").write_text(settings(seeded(service)))
    report = folder / "report.json"
    command = [Path(sys.executable).with_name("schemathesis"), "--config-file", folder / "schemathesis.toml", "run"]
    command += [ROOT / "openapi.yaml", "--url", service.address, "--header", f"Authorization: Bearer {service.key}"]
    command += ["--checks", ",".join(CHECKS), "--report", "json", "--report-json-path", report, "--no-color"]
    result = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, encoding="utf-8")
    assert report.exists(), result.stdout + result.stderr
    print(result.stdout)
    return Run(json.loads(report.read_text(encoding="utf-8")), result.stdout)


def test_every_answer_is_in_the_contract(run: Run) -> None:
    failures = [f"{failure['title']} ({failure['count']}): {failure['operations']}" for failure in run.report["failures"]]
    assert failures == [], run.output
    assert run.report["errors"] == [], run.output
    assert run.report["exit_code"] == 0


def test_the_run_was_as_large_as_it_should_be(run: Run) -> None:
    assert run.report["test_cases"]["generated"] >= LEAST_CASES
    assert run.report["test_cases"]["errored"] == 0
    assert run.report["complete"]
    assert run.report["operations"]["tested"] == run.report["operations"]["total"] > 40
    assert {name: phase["status"] for name, phase in run.report["phases"].items()} == dict.fromkeys(
        ["examples", "coverage", "fuzzing", "stateful"], "success"
    )


@pytest.mark.parametrize("operation", ANSWERED)
def test_the_run_saw_more_than_refusals(run: Run, operation: str) -> None:
    assert sum(phase["accepted"] for phase in run.report["valid_rates"][operation].values()) > 0


def test_the_service_has_no_defect_in_its_log(run: Run, service: Service) -> None:
    assert "request failed unexpectedly" not in service.log.read_text(encoding="utf-8")


def test_the_service_still_works_and_knows_the_key(run: Run, service: Service) -> None:
    assert httpx.get(f"{service.address}/health/ready", timeout=30).status_code == 200
    answer = httpx.get(f"{service.address}/keys", headers={"authorization": f"Bearer {service.key}"}, timeout=30)
    assert answer.status_code == 200
