"""The addresses of the server, and what each refuses.

A request that is too large is refused before it is read (413), one that cannot be understood says why (415, 422), one
that finds the queue full is told to come again (429), and one that waits too long, or meets a server that ends, gets
503. Every answer has the residual of its solve and whether that has converged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from torch import nn

from zoo import __version__
from zoo.hub.failures import MORE, steps_of
from zoo.hub.inputs import UNREADABLE
from zoo.hub.predict import kind_of
from zoo.hub.trained import trained_config
from zoo.registry import sentence
from zoo.serve.batcher import Batcher, Full
from zoo.serve.requests import job_of, read_json, written

PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Limits:
    """What one server takes.

    Args:
        batch: samples of a batch.
        wait: seconds that a batch waits for others.
        waiting: requests that wait.
        body: bytes of a request.
        timeout: seconds for an answer.
        steps: of a solver, that a request may ask for; None: 8 times the model's own.
    """

    batch: int = 32
    wait: float = 0.004
    waiting: int = 128
    body: int = 8 << 20
    timeout: float = 60.0
    steps: int | None = None


class Refused(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def build(model: nn.Module, limits: Limits | None = None) -> FastAPI:
    """Return the application that answers for a loaded model.

    Raises:
        ValueError: a model that cannot be asked about single samples.
    """
    limits = limits or Limits()
    saved, kind = trained_config(model), kind_of(model)
    assert saved is not None
    batcher = Batcher(model, batch=limits.batch, wait=limits.wait, waiting=limits.waiting)
    own = steps_of(model)
    most = None if own is None else limits.steps or MORE * own
    read = dict(saved.preprocessing)
    about = {
        "model": saved.name,
        "kind": kind,
        "classes": list(read.get("classes", ())),
        "size": read.get("size"),
        "solver": saved.solver.get("name"),
        "max_steps": own,
        "max_steps_of_a_request": most,
        "version": __version__,
    }

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await run_in_threadpool(batcher.stop)

    app = FastAPI(title="zoo", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.state.batcher = batcher

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        headers = {"retry-after": "1"} if error.status in (429, 503) else None
        return JSONResponse({"error": str(error)}, error.status, headers=headers)

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.get("/about")
    def tell() -> dict[str, Any]:
        return about

    @app.get("/health")
    def health() -> JSONResponse:
        waits = batcher.jobs.qsize()
        told = {"status": "ok" if batcher.alive else "ends", "waiting": waits, "places": limits.waiting}
        done = {"batches": batcher.batches, "samples": batcher.samples}
        return JSONResponse({**told, **done}, 200 if batcher.alive else 503)

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        asked = await _asked(request, limits.body)
        try:
            job, several = await run_in_threadpool(job_of, model, asked, most)
        except UNREADABLE as error:
            raise Refused(422, sentence(error)) from error
        try:
            future = batcher.submit(job)
        except Full as error:
            raise Refused(429, str(error)) from error
        try:
            answers = await asyncio.wait_for(asyncio.wrap_future(future), limits.timeout)
        except (TimeoutError, asyncio.CancelledError) as error:
            raise Refused(503, f"No answer within {limits.timeout:g} s.") from error
        except UNREADABLE as error:
            raise Refused(422, sentence(error)) from error
        except RuntimeError as error:
            raise Refused(503 if batcher.ends.is_set() else 500, sentence(error)) from error
        told = [written(a) for a in answers]
        return JSONResponse({"model": saved.name, "answers": told} if several else {"model": saved.name, **told[0]})

    return app


async def _asked(request: Request, most: int) -> dict[str, Any]:
    """What a request asks: a JSON object, or a picture as its body or in a form, with options as in an address."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    picture = kind.startswith("image/") or kind == "application/octet-stream"
    if not (picture or kind in ("application/json", "multipart/form-data")):
        raise Refused(415, f"Send JSON (application/json), a picture (image/png, ...) or a form; got {kind[:40]!r}.")
    body = await _body(request, most)
    if kind == "application/json":
        try:
            return read_json(body)
        except ValueError as error:
            raise Refused(422, str(error)) from error
    asked: dict[str, Any] = {k: int(v) if v.isdecimal() and len(v) < 10 else v for k, v in request.query_params.items()}
    if not picture:
        form = await Request(request.scope, _again(body)).form(max_files=1, max_fields=8, max_part_size=most)
        try:
            files = [v for v in form.values() if not isinstance(v, str)]
            if len(files) != 1:
                raise Refused(422, "A form has one file.")
            body = await files[0].read()
        finally:
            await form.close()
    return {**asked, "input": body}


async def _body(request: Request, most: int) -> bytes:
    """The body, at most so many bytes: refused by what it declares, or as soon as more have come."""
    told = request.headers.get("content-length", "0")
    if not told.isdecimal() or int(told) > most:
        raise Refused(413, f"A request has at most {most:,} bytes; this one declares {told[:20]}.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise Refused(413, f"A request has at most {most:,} bytes.")
    return bytes(body)


def _again(body: bytes) -> Any:
    """A stream of a body that was read."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
