"""Whether the orchestrator lives, whether it can answer, and which models it has."""

from datetime import UTC, datetime
from typing import Any

import grpc
from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from orchestrator.generation.request import model_unknown
from orchestrator.http.exchange.errors import error_response
from orchestrator.http.served import DRAFT, Served
from outrider.v1 import common_pb2
from services.frame.rpc.errors import REASON_NOT_READY, ServiceError


def status_routes(served: Served) -> APIRouter:
    """Return the routes of health and models."""
    routes = APIRouter()

    @routes.get("/health/live", summary="Whether the process lives", tags=["status"])
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/health/ready", summary="Whether requests are answered", tags=["status"])
    @routes.get("/health", summary="The same as /health/ready", tags=["status"])
    async def ready() -> Response:
        if obstacle := served.obstacle():
            error = ServiceError(grpc.StatusCode.UNAVAILABLE, REASON_NOT_READY, obstacle)
            return error_response(error, "/health")
        return JSONResponse({"status": "ok"})

    @routes.get("/v1/models", summary="The models: the target, and the draft as `draft`", tags=["models"])
    async def models() -> dict[str, Any]:
        known = {served.target.name: served.target}
        if (draft := served.draft()) is not None:
            known[DRAFT] = draft.model
        found = [_described(name, model, served.started_s) for name, model in known.items()]
        # Anthropic's clients ask here too, for pages: this is the only one.
        page = {"has_more": False, "first_id": found[0]["id"], "last_id": found[-1]["id"]}
        return {"object": "list", "data": found} | page

    @routes.get("/v1/models/{model:path}", summary="A model, by any name that requests may call it", tags=["models"])
    async def model(model: str) -> dict[str, Any]:
        found = served.model(model)
        if not found.name:
            raise model_unknown(model, served.backend.models())
        return _described(model, found, served.started_s)

    return routes


def _described(name: str, model: common_pb2.ModelInfo, started_s: int) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": started_s,
        "owned_by": "outrider",
        # The same, as Anthropic's API has it.
        "type": "model",
        "display_name": model.name,
        "created_at": datetime.fromtimestamp(started_s, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_model_len": model.context_length,
        "meta": {
            "name": model.name,
            "n_vocab": model.vocabulary_size,
            "n_params": model.num_parameters,
            "size": model.model_bytes,
            "has_chat_template": model.has_chat_template,
        },
    }
