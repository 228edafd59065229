"""Our own services as a bench starts them, without their processes."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from orchestrator.bench.systems.services import Checkout, Services
from orchestrator.bench.systems.system import Models, Setting
from outrider.v1 import generation_pb2


async def test_more_draft_tokens_than_the_target_takes_are_left_out_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def start(*_: object) -> str:
        return "address"

    async def status(*_: object) -> generation_pb2.GetStatusResponse:
        found = generation_pb2.GetStatusResponse(version="1")
        found.target.model.max_draft_tokens = 16
        return found

    monkeypatch.setattr(Services, "_start_stack", start)
    monkeypatch.setattr(Services, "status", status)
    models = Models(Path("target"), Path("draft"), slots=1, context=64, threads=1)
    services = Services(
        "ours", Checkout(), models, [Setting.parse(name) for name in ("plain", "3", "16", "17", "auto")]
    )
    assert await services.start(AsyncExitStack()) == {"17": "the target takes 1 to 16 draft tokens"}
    assert [each.name for each in services.settings] == ["plain", "3", "16", "auto"]
