"""Webhooks as a receiver in Python verifies them, with the official library of Standard Webhooks."""

import base64
import json
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

SCRIPT = Path(__file__).with_name("signed_messages.mjs")


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


SECRET = new_secret()
OLD_SECRET = new_secret()


def signed(*keys: str) -> dict:
    node = shutil.which("node")
    assert node is not None, "node is not in the path"
    result = subprocess.run([node, SCRIPT, *keys], capture_output=True, text=True, encoding="utf-8", check=True)
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def messages() -> dict:
    return signed(SECRET)


def verify(secret: str, message: dict) -> dict:
    return Webhook(secret).verify(message["body"].encode(), message["headers"])


def changed(message: dict, **headers: str) -> dict:
    return {**message, "headers": {**message["headers"], **{name.replace("_", "-"): value for name, value in headers.items()}}}


def test_a_message_verifies(messages: dict) -> None:
    assert verify(SECRET, messages["good"])["data"]["specimenId"] == "Blutprobe Ä"


def test_two_signatures_verify_with_either_secret() -> None:
    message = signed(SECRET, OLD_SECRET)["good"]
    assert len(message["headers"]["webhook-signature"].split(" ")) == 2
    assert verify(SECRET, message) == verify(OLD_SECRET, message)
    with pytest.raises(WebhookVerificationError):
        verify(new_secret(), message)


@pytest.mark.parametrize("kind", ["late", "early", "forged"])
def test_late_early_and_forged_messages_do_not(messages: dict, kind: str) -> None:
    with pytest.raises(WebhookVerificationError):
        verify(SECRET, messages[kind])


@pytest.mark.parametrize(
    "change",
    [
        lambda good: {**good, "body": good["body"] + " "},
        lambda good: {**good, "body": ""},
        lambda good: changed(good, webhook_id="msg_other"),
        lambda good: changed(good, webhook_timestamp=str(int(good["headers"]["webhook-timestamp"]) + 60)),
        lambda good: changed(good, webhook_timestamp="now"),
        lambda good: changed(good, webhook_signature=""),
        lambda good: changed(good, webhook_signature=good["headers"]["webhook-signature"][:20]),
        lambda good: changed(good, webhook_signature="v2," + good["headers"]["webhook-signature"][3:]),
        lambda good: changed(good, webhook_signature="v1," + base64.b64encode(secrets.token_bytes(32)).decode()),
    ],
    ids=["body", "empty body", "id", "timestamp", "no number", "no signature", "half", "version", "random"],
)
def test_changed_messages_do_not(messages: dict, change) -> None:
    # What cannot be decoded at all is refused with the error of the decoder.
    with pytest.raises((WebhookVerificationError, ValueError)):
        verify(SECRET, change(messages["good"]))
