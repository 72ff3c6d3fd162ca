"""The layer's HTTP side: its routes, who is let in, what a client may say. An ASGI application."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aiohttp
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..observing.slo_headers import DEADLINE_HEADER
from .call import PATHS, BadRequest, read_body, told_class, told_length, told_slos, whole_number
from .client import Client, ClientGone, TooLarge, error_body, headers_of
from .complaints import complain
from .keys import Key, Keys
from .layer import MOST_LEVEL, Layer
from .operators import operator_routes

MODELS_TIMEOUT_S = 30.0
BODY_S = 30.0
"""Seconds in which a request's body must have come: who sends byte by byte holds no place for ever."""


class TooSlow(Exception):
    """A body that has not come in time."""


class Answering:
    """The endpoint of a path that answers prompts (an ASGI application of its own, so that bytes pass as
    they come).
    """

    def __init__(self, layer: Layer, keys: Keys, path: str) -> None:
        self.layer, self.keys, self.path = layer, keys, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request in, answer it, and let go of it whatever happens."""
        client, layer = Client(scope, receive, send), self.layer
        key = self.keys.find(client.headers)
        if self.keys and key is None:
            layer.metrics.refused.labels("key").inc()
            await client.error(401, "the API key is missing or not known", "authentication_error")
            return
        if self.keys:
            del client.headers["authorization"]  # the layer's key is none of the upstream's business
        name = key.name if key is not None else None
        refusal = layer.refuse(name)
        if refusal is not None:
            layer.metrics.refused.labels(refusal.kind).inc()
            status = 503 if refusal.kind in ("ending", "upstream") else 429
            await client.error(
                status, refusal.reason, "rate_limit_error", retry_after_s=refusal.retry_after_s
            )
            return
        try:
            await self._answer(client, key)
        except ClientGone:
            layer.metrics.refused.labels("the client left").inc()
        except TooSlow:
            layer.metrics.refused.labels("too slow").inc()
            await client.error(408, "the body has not come in time", "invalid_request_error")
        except TooLarge:
            layer.metrics.refused.labels("too large").inc()
            await client.error(413, "the body is too large", "invalid_request_error")
        except BadRequest as error:
            layer.metrics.refused.labels("bad request").inc()
            await client.error(400, str(error), "invalid_request_error")
        except asyncio.CancelledError:  # the time to drain is over
            if not client.has_ended:
                await client.error(503, "the layer has ended", "upstream_error", retry_after_s=1.0)
        except Exception as error:
            complain("a request failed within the layer", error)
            if not client.has_ended:
                await client.error(500, "the layer failed", "internal_error")
        finally:
            layer.leave(name)

    async def _answer(self, client: Client, key: Key | None) -> None:
        try:
            async with asyncio.timeout(BODY_S):
                raw = await client.read(self.layer.settings.max_body)
        except TimeoutError:
            raise TooSlow from None
        body = read_body(raw)
        call = self.layer.call(
            self.path,
            raw,
            body,
            client,
            key,
            priority=_level(client, body),
            deadline_s=_seconds(client, DEADLINE_HEADER),
            told_tokens=told_length(body, client.headers),
            slos=told_slos(client.headers),
            slo_class=told_class(client.headers) or (key.slo_class if key is not None else ""),
        )
        answering = asyncio.create_task(self.layer.answer(call, client))
        gone = asyncio.create_task(client.gone())
        try:
            await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not answering.done():
                answering.cancel()
            with suppress(asyncio.CancelledError):
                await answering


def make_app(layer: Layer, keys: Keys) -> Starlette:
    """The application of a layer."""

    async def models(request: Request) -> Response:
        headers = headers_of(request.scope)
        if keys and keys.find(headers) is None:
            return _error(401, "the API key is missing or not known", "authentication_error")
        if keys:
            del headers["authorization"]
        timeout = aiohttp.ClientTimeout(total=MODELS_TIMEOUT_S)
        for upstream in sorted(layer.pool.upstreams, key=lambda u: u.num_failures):
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with layer.relay.session.get(
                    upstream.url + "/v1/models",
                    headers=layer.relay.headers(headers),
                    timeout=timeout,
                    allow_redirects=False,
                ) as response:
                    if response.status < 300 or 400 <= response.status < 500:
                        content_type = response.headers.get("content-type", "application/json")
                        return Response(
                            await response.read(), response.status, {"content-type": content_type}
                        )
        return _error(502, "no upstream names its models", "upstream_error")

    async def failed(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        answer = _error(status, getattr(error, "detail", "the layer failed"), "invalid_request_error")
        answer.headers.update(getattr(error, "headers", None) or {})  # such as Allow
        return answer

    app = Starlette(
        routes=[
            *(Route(path, Answering(layer, keys, path), methods=["POST"]) for path in PATHS),
            Route("/v1/models", models),
            *operator_routes(layer, keys),
        ],
        exception_handlers={HTTPException: failed},
    )
    app.router.redirect_slashes = False  # a redirection would say whatever host the client has named
    return app


def _error(status: int, text: str, kind: str) -> Response:
    return Response(error_body(status, text, kind), status, {"content-type": "application/json"})


def _level(client: Client, body: dict[str, object]) -> int | None:
    """The priority that the client says: by header, or as vLLM's clients do."""
    said: object = client.headers.get("x-seqsched-priority")
    if said is None:
        said = body.get("priority")
        if said is None or isinstance(said, bool) or not isinstance(said, int):
            return None
    else:
        said = whole_number(str(said))
    if isinstance(said, bool) or not isinstance(said, int) or abs(said) > MOST_LEVEL:
        raise BadRequest(f"the priority is not a whole number from {-MOST_LEVEL} to {MOST_LEVEL}")
    return said


def _seconds(client: Client, name: str) -> float | None:
    """The seconds that a header says; BadRequest for what are none."""
    text = client.headers.get(name)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e6:
        raise BadRequest(f"{name} is not a number of seconds above 0")
    return seconds
