"""LitServe: one `LitAPI`, several workers for the device, the answer is the result."""

import os

import litserve as ls
from fastapi import Request
from pipeline import SCHEMA, insert_image, open_pipeline, store
from psycopg_pool import ConnectionPool


class Analyze(ls.LitAPI):
    def setup(self, device: str) -> None:
        self.pipeline = open_pipeline()
        self.pool = ConnectionPool(os.environ["PEER_DATABASE_URL"], min_size=1, max_size=4, open=True)
        with self.pool.connection() as first:
            first.execute("SELECT pg_advisory_xact_lock(1)")
            first.execute(SCHEMA)

    def decode_request(self, request: Request) -> tuple[bytes, float]:
        return request["images"].file.read(), float(request["micronsPerPixel"])

    def predict(self, inputs: tuple[bytes, float]) -> dict:
        data, microns = inputs
        with self.pool.connection() as connection:
            key = insert_image(connection, data, microns)
        result = self.pipeline.analyze(data, microns)
        with self.pool.connection() as connection:
            return store(connection, key, result)

    def encode_response(self, output: dict) -> dict:
        return output


if __name__ == "__main__":
    server = ls.LitServer(
        Analyze(api_path="/analyze"), accelerator="cpu", workers_per_device=int(os.environ["PEER_WORKERS"]), timeout=120
    )
    server.run(host="127.0.0.1", port=int(os.environ["PEER_PORT"]), log_level="warning", generate_client_file=False)
