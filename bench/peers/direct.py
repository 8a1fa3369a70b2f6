"""FastAPI and uvicorn: the answer is the result. Plain `def`, so that FastAPI runs it in its thread pool, as its guide says."""

import os

from fastapi import FastAPI, Form, UploadFile
from pipeline import SCHEMA, insert_image, open_pipeline, store
from psycopg_pool import ConnectionPool

pipeline = open_pipeline()
pool = ConnectionPool(os.environ["PEER_DATABASE_URL"], min_size=1, max_size=8, open=True)
with pool.connection() as first:
    first.execute("SELECT pg_advisory_xact_lock(1)")
    first.execute(SCHEMA)
app = FastAPI()


@app.get("/health")
def health() -> dict:
    return {"ready": True}


@app.post("/analyze")
def analyze(images: UploadFile, micronsPerPixel: float = Form()) -> dict:
    data = images.file.read()
    with pool.connection() as connection:
        key = insert_image(connection, data, micronsPerPixel)
    result = pipeline.analyze(data, micronsPerPixel)
    with pool.connection() as connection:
        return store(connection, key, result)
