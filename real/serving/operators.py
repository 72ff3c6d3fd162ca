"""What the layer says of itself to who runs it: health, metrics, and a page to look at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .client import headers_of
from .keys import Keys
from .layer import Layer
from .status import HEADERS, page, status


def operator_routes(layer: Layer, keys: Keys) -> list[Route]:
    """`/health` for everybody; `/metrics`, `/status` and the page `/` want a key where clients need one, as
    a bearer's or as a browser's password.
    """

    async def health(request: Request) -> Response:
        is_able = not layer.is_draining and layer.pool.capacity(layer.clock()) > 0
        return JSONResponse({"status": "ok" if is_able else "unable"}, 200 if is_able else 503)

    def with_key(answer: Callable[[], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            if keys and keys.find(headers_of(request.scope)) is None:
                return Response("a key is needed", 401, {"www-authenticate": 'Basic realm="seqsched"'})
            return answer()

        return checked

    def metrics() -> Response:
        return Response(layer.expose(), headers={"content-type": CONTENT_TYPE_LATEST})

    def shown() -> Response:
        return Response(page(), headers={**HEADERS, "content-type": "text/html; charset=utf-8"})

    def numbers() -> Response:
        return JSONResponse(status(layer), headers={"cache-control": "no-store"})

    return [
        Route("/health", health),
        Route("/metrics", with_key(metrics)),
        Route("/status", with_key(numbers)),
        Route("/", with_key(shown)),
    ]
