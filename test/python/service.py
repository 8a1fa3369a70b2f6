"""The built program, started as a user starts it, for the tests in Python."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_TIMEOUT_SECONDS = 90


@dataclass(frozen=True)
class Service:
    address: str
    key: str
    """The key that the service made at its first start; it may everything."""
    log: Path


@contextmanager
def running_service(**settings: str) -> Iterator[Service]:
    """Runs `leukodiff serve` on a free port with a folder of its own, and with nothing of our environment but the path."""
    program = ROOT / "dist" / "start.cjs"
    assert program.exists(), "dist/start.cjs is missing: run `npm run build` first"
    folder = Path(tempfile.mkdtemp(prefix="leukodiff-python-"))
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(folder / "data"), "PORT": "0", "EXECUTION_PROVIDER": "cpu"}
    log = folder / "log"
    with log.open("wb") as output:
        child = subprocess.Popen(["node", program, "serve"], env=environment | settings, stdout=output, stderr=output)
    try:
        yield Service(listening_at(log, child), (folder / "data" / "first-key").read_text().strip(), log)
    finally:
        child.terminate()
        try:
            child.wait(30)
        finally:
            child.kill()
            shutil.rmtree(folder, ignore_errors=True)


def listening_at(log: Path, child: subprocess.Popen) -> str:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if '"msg":"listening"' in line:
                return json.loads(line)["address"]
        time.sleep(0.05)
    raise AssertionError(f"the service does not listen:\n{log.read_text(encoding='utf-8')[-3000:]}")
