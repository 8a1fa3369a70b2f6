"""FastAPI and arq: the image is stored and queued in Redis, the answer is 202, and `arq queued.WorkerSettings` does the rest."""

import asyncio
import os
import uuid
from contextlib import asynccontextmanager

from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI, Form, UploadFile
from pipeline import SCHEMA, insert_image, open_pipeline, store
from psycopg_pool import ConnectionPool

DATABASE_URL = os.environ["PEER_DATABASE_URL"]
REDIS = RedisSettings.from_dsn(os.environ["PEER_REDIS_URL"])
QUEUE = os.environ["PEER_QUEUE"]


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.pool = ConnectionPool(DATABASE_URL, min_size=1, max_size=8, open=True)
    with app.state.pool.connection() as first:
        first.execute(SCHEMA)
    app.state.queue = await create_pool(REDIS, default_queue_name=QUEUE)
    yield
    await app.state.queue.aclose()
    app.state.pool.close()


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> dict:
    return {"ready": True}


@app.post("/analyze", status_code=202)
async def analyze(images: UploadFile, micronsPerPixel: float = Form()) -> dict:
    data = await images.read()

    def insert() -> uuid.UUID:
        with app.state.pool.connection() as connection:
            return insert_image(connection, data, micronsPerPixel)

    key = await asyncio.to_thread(insert)
    await app.state.queue.enqueue_job("analyze_image", str(key))
    return {"id": str(key)}


def work(ctx: dict, key: uuid.UUID) -> None:
    with ctx["pool"].connection() as connection:
        row = connection.execute("SELECT bytes, microns FROM peer_images WHERE id = %s", (key,)).fetchone()
    result = ctx["pipeline"].analyze(row[0], row[1])
    with ctx["pool"].connection() as connection:
        store(connection, key, result)


async def analyze_image(ctx: dict, key: str) -> None:
    # Beside the loop, which keeps the job's place in Redis.
    await asyncio.to_thread(work, ctx, uuid.UUID(key))


async def startup(ctx: dict) -> None:
    ctx["pipeline"] = open_pipeline()
    ctx["pool"] = ConnectionPool(DATABASE_URL, min_size=1, max_size=8, open=True)


class WorkerSettings:
    functions = (analyze_image,)
    on_startup = startup
    redis_settings = REDIS
    queue_name = QUEUE
    max_jobs = int(os.environ.get("PEER_JOBS", "2"))
    poll_delay = 0.05
    keep_result = 0
