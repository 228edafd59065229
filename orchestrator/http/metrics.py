"""The page that Prometheus fetches."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import grpc
from fastapi import APIRouter, Request
from starlette.responses import Response

from orchestrator.http.callers import METRICS
from orchestrator.http.served import Served
from orchestrator.http.vllm_metrics import vllm_families
from services.frame.rpc.errors import ServiceError
from services.frame.telemetry import Telemetry

_TEXT = {"schema": {"type": "string"}}
_ANSWERS: Mapping[int | str, dict[str, Any]] = MappingProxyType(
    {
        200: {
            "description": "Prometheus' text format, or OpenMetrics where that is asked for",
            "content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT},
        }
    }
)


def metrics_routes(served: Served) -> APIRouter:
    """Return the route of the page, none where it is off."""
    routes = APIRouter()
    if served.settings.http_metrics == "off":
        return routes

    @routes.get(
        METRICS,
        summary="What was measured, for Prometheus",
        tags=["status"],
        response_class=Response,
        responses=dict(_ANSWERS),
    )
    async def metrics(request: Request) -> Response:
        text, content_type = await metrics_text(served, request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    return routes


async def metrics_text(served: Served, accept: str) -> tuple[bytes, str]:
    """Return all metrics of the orchestrator's process as text that `accept` takes, and its content type.

    Raises ServiceError where nothing is measured.
    """
    telemetry: Telemetry = served.server.telemetry
    if telemetry.page is None:
        sentence = "metrics are off: by --http-metrics, or by OTEL_SDK_DISABLED in the environment"
        raise ServiceError(grpc.StatusCode.NOT_FOUND, "INVALID_REQUEST", sentence)
    page, settings = telemetry.page, served.settings
    # Others are served meanwhile.
    families = await asyncio.to_thread(page.families)
    if settings.http_vllm_metrics and served.service is not None:
        load = await served.service.load()
        families += vllm_families(families, load, settings.max_draft_tokens)
    return await asyncio.to_thread(page.render, families, accept)
