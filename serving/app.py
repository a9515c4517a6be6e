"""The ASGI application: its routes, and what its requests share."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..runtime.errors import EdgeseqError
from ..runtime.model import Model
from .access import Access
from .chat import chat
from .completions import complete
from .errors import ApiError, api_error, json_response
from .fields import Fields, read_body, read_object
from .generating import Services
from .metrics import MEDIA_TYPE
from .models import ServedModel
from .page import page_routes
from .settings import Settings
from .sources import Source
from .state import Server
from .streams import ClientLeftError, EventStream, ends_with_client
from .tasks import detokenize, list_tasks, run_task, tokenize
from .work import Job

LOG = logging.getLogger("edgeseq.serving")
CLIENT_LEFT = 499  # status in logs and figures, as nginx has it
Answer = dict[str, Any] | bytes | EventStream
Work = Callable[[Services, ServedModel, Fields, Job], Awaitable[Answer]]


def create_app(models: Mapping[str, Source] | Model, settings: Settings | None = None) -> Starlette:
    """Return an ASGI application that answers OpenAI's form of requests.

    Any ASGI server can run it that sends lifespan events. ``serve`` runs it with uvicorn.

    Args:
        models: The models by their names: each a loaded ``Model``, or a function that loads one,
            which is called in the background. A single ``Model`` is named by its bundle's folder.
        settings: Who may call the server, and its limits; None for the defaults.

    Returns:
        The application.

    Examples:
        >>> from edgeseq.runtime import load
        >>> from edgeseq.serving import create_app
        >>> app = create_app({"tales": load()})
    """
    if isinstance(models, Model):
        models = {models.bundle.folder.name: models}
    server = Server(models, settings or Settings())
    app = Starlette(
        routes=_routes(server),
        middleware=_middleware(server),
        exception_handlers={
            ApiError: _answer_api_error,
            EdgeseqError: _answer_runtime_error,
            HTTPException: _answer_http_error,
        },
        lifespan=server.lifespan,
    )
    app.state.server = server
    return app


def _middleware(server: Server) -> list[Middleware]:
    access = Middleware(Access, server=server)
    if not server.settings.allow_origins:
        return [access]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(server.settings.allow_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Request-Id"],
    )
    return [cors, access]  # errors of access have the headers that let the page read them


def _routes(server: Server) -> list[Route]:
    known_tasks = list_tasks()

    def post(path: str, work: Work) -> Route:
        async def endpoint(request: Request) -> Any:
            return await _answer(server, request, work)

        return Route(path, endpoint, methods=["POST"])

    async def tasks(request: Request) -> Any:
        return await _answer(server, request, partial(run_task, request.path_params["task"]))

    async def health(request: Request) -> Response:
        if server.models.is_ready:
            return json_response({"status": "ok"})
        status = "loading" if server.models.error is None else "error"
        return json_response({"status": status}, 503, {"Retry-After": "1"})

    async def metrics(request: Request) -> Response:
        return Response(server.metrics.text(server.models), media_type=MEDIA_TYPE)

    async def list_models(request: Request) -> Response:
        found = [served.body for served in server.models.served]
        return json_response({"object": "list", "data": found})

    async def show_tasks(request: Request) -> Response:
        return json_response(known_tasks)

    async def show_model(request: Request) -> Response:
        return json_response(server.models.find(request.path_params["model"]).body)

    return [
        *page_routes(),
        Route("/health", health, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{model:path}", show_model, methods=["GET"]),
        post("/v1/completions", complete),
        post("/v1/chat/completions", chat),
        Route("/v1/tasks", show_tasks, methods=["GET"]),
        Route("/v1/tasks/{task}", tasks, methods=["POST"]),
        post("/tokenize", tokenize),
        post("/detokenize", detokenize),
    ]


async def _answer(server: Server, request: Request, work: Work) -> Any:
    """Read a request's body and do its work; the work ends when the client leaves."""
    settings = server.settings
    body = await read_body(request, settings)
    job = Job(settings.request_s)
    try:
        answer = await _work(server, request, work, body, job)
    except BaseException:
        job.end()
        raise
    if isinstance(answer, EventStream):
        return answer  # it ends the job
    job.end()
    if isinstance(answer, bytes):
        return Response(answer, media_type="application/json")
    return json_response(answer)


async def _work(server: Server, request: Request, work: Work, body: bytes, job: Job) -> Answer:
    """Read the body and do its work, until the client leaves."""
    settings = server.settings
    data = await server.services.threads.check(lambda: read_object(body), settings.constraint_s)
    if settings.log_prompts:
        LOG.info("%s", json.dumps(data))
    fields = Fields(data)
    served = server.models.find(fields.text("model"))
    try:
        async with ends_with_client(request.receive, job):
            return await work(server.services, served, fields, job)
    except ClientLeftError:
        raise ApiError(CLIENT_LEFT, "The client has left.") from None


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _answer_runtime_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EdgeseqError)
    return api_error(error).response()


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: "There is no such path: see the list at /.",
        405: "The path has no such method: see the list at /.",
    }.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers).response()
