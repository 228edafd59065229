"""Whether the orchestrator lives, whether it can answer, and which models it has."""

from datetime import UTC, datetime
from typing import Any

import grpc
from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from orchestrator.generation.request import model_unknown
from orchestrator.http.exchange.errors import error_response
from orchestrator.http.served import DRAFT, Served
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
        found = _models(served)
        # Anthropic's clients ask here too, for pages: this is the only one.
        page = {"has_more": False, "first_id": found[0]["id"], "last_id": found[-1]["id"]}
        return {"object": "list", "data": found} | page

    @routes.get("/v1/models/{model:path}", summary="One of the models", tags=["models"])
    async def model(model: str) -> dict[str, Any]:
        for each in _models(served):
            if each["id"] == model:
                return each
        raise model_unknown(model, [each["id"] for each in _models(served)])

    return routes


def _models(served: Served) -> list[dict[str, Any]]:
    target = served.target
    found = [(target.name, target)]
    if (draft := served.draft()) is not None:
        found.append((DRAFT, draft.model))
    started = datetime.fromtimestamp(served.started_s, UTC).isoformat().replace("+00:00", "Z")
    return [
        {
            "id": name,
            "object": "model",
            "created": served.started_s,
            "owned_by": "outrider",
            # The same, as Anthropic's API has it.
            "type": "model",
            "display_name": model.name,
            "created_at": started,
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
        for name, model in found
    ]
