"""The application: all routes, and what is around them."""

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from orchestrator.http.anthropic.messages import message_routes
from orchestrator.http.callers import guards
from orchestrator.http.exchange.errors import error_response, http_error_response, validation_error
from orchestrator.http.exchange.frame import RequestFrame
from orchestrator.http.metrics import metrics_routes
from orchestrator.http.openai.chat import chat_routes
from orchestrator.http.openai.completions import completion_routes
from orchestrator.http.openai.responses import response_routes
from orchestrator.http.openapi import describe
from orchestrator.http.page.routes import page_routes
from orchestrator.http.served import Served
from orchestrator.http.status import status_routes
from orchestrator.http.texts import text_routes
from services.frame.program.version import VERSION
from services.frame.rpc.errors import ServiceError

_ROUTES = (status_routes, metrics_routes, completion_routes, chat_routes, response_routes, message_routes, text_routes)


def create_app(served: Served, middleware: Sequence[Middleware] = ()) -> FastAPI:
    """Return the application. What is in `middleware` is inside of the frame, the first one outermost.

    The server must have begun to listen: then it knows its keys.
    """
    server = served.server
    app = FastAPI(
        title="Outrider",
        version=VERSION,
        description="Speculative decoding, by the APIs that clients speak.",
        openapi_url=None,  # `describe` has it
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        # Requests have the spans and metrics of generations, whatever the environment asks for.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        middleware=[
            *guards(served.settings, server.keys),
            Middleware(
                RequestFrame,
                counting=server.counting,
                max_body_bytes=served.settings.max_message_bytes,
            ),
            *middleware,
        ],
    )
    for routes in _ROUTES:
        app.include_router(routes(served))
    app.include_router(page_routes())
    describe(app)

    @app.exception_handler(ServiceError)
    async def refuse(request: Request, error: ServiceError) -> Response:
        return error_response(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def refuse_fields(request: Request, error: RequestValidationError) -> Response:
        return error_response(validation_error(error), request.url.path)

    @app.exception_handler(HTTPException)
    async def refuse_request(request: Request, error: HTTPException) -> Response:
        return http_error_response(error, request.url.path)

    return app
