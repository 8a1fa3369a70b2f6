"""HL7 over MLLP from the running service to a listener that is not ours, and not of the library that sends."""

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import hl7
from hl7.mllp import start_hl7_server
from service import ROOT, Service, running_service

WAIT_SECONDS = 120


class Listener:
    """An MLLP receiver of the `hl7` package in a thread of its own; it accepts all but the first `rejections` messages."""

    def __init__(self, rejections: int) -> None:
        self.received: list[hl7.Message] = []
        self.rejections = rejections
        self.port = 0

    async def answer(self, reader, writer) -> None:
        try:
            while not writer.is_closing():
                message = await reader.readmessage()
                self.received.append(message)
                writer.writemessage(message.create_ack("AR" if len(self.received) <= self.rejections else "AA"))
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()


@contextmanager
def listening(rejections: int) -> Iterator[Listener]:
    listener, loop = Listener(rejections), asyncio.new_event_loop()
    server = loop.run_until_complete(start_hl7_server(listener.answer, host="127.0.0.1", port=0, encoding="utf-8"))
    listener.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def post_sample(service: Service, accession: str) -> str:
    boundary = "leukodiff-test"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="accessionNumber"\r\n\r\n{accession}\r\n'.encode(),
        f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="smear.png"\r\n'.encode(),
        b"Content-Type: image/png\r\n\r\n",
        (ROOT / "samples" / "smear.png").read_bytes(),
        f"\r\n--{boundary}--\r\n".encode(),
    ]
    headers = {"authorization": f"Bearer {service.key}", "content-type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(f"{service.address}/analyze", b"".join(parts), headers, method="POST")
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["id"]


def test_a_result_arrives_once_it_is_accepted() -> None:
    with listening(rejections=1) as lis, running_service(HL7_DESTINATION=f"mllp://127.0.0.1:{lis.port}") as service:
        analysis = post_sample(service, "H-26|Ä")
        deadline = time.monotonic() + WAIT_SECONDS
        while len(lis.received) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        first, again = lis.received
        # What was rejected comes again, to the letter; what was accepted does not.
        assert str(first) == str(again)
        assert first.extract_field("MSH", 1, 9, 1, 1) == "ORU"
        order = first.segment("OBR")
        assert str(order[3]) == analysis
        assert first.unescape(str(order[18])) == "H-26|Ä"
        assert {str(obx[11]) for obx in first.segments("OBX")} == {"P"}
