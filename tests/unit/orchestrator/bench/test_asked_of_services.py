"""What our own services are asked for, setting by setting, and what a rehearsal finds to be expected."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench.load.predictions import with_edits
from orchestrator.bench.load.prompts import Prompt
from orchestrator.bench.load.streams import Stream
from orchestrator.bench.systems import services as module
from orchestrator.bench.systems.services import Checkout, Services
from orchestrator.bench.systems.system import Models, Setting
from outrider.v1 import generation_pb2

TEXT = "".join(f"line {number}\n" for number in range(20))
PROMPT = Prompt("mine", "def f():")
PREDICTED = Prompt("mine", "def g():", prediction="    return 1\n")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[generation_pb2.GenerateRequest]:
    """The requests that an orchestrator gets, which says the same each time."""
    requests: list[generation_pb2.GenerateRequest] = []

    async def generate(
        address: str, request: generation_pb2.GenerateRequest
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        requests.append(request)
        for line in TEXT.splitlines(keepends=True):
            yield generation_pb2.GenerateResponse(chunk=generation_pb2.GenerateChunk(text=line))

    monkeypatch.setattr(module, "generate", generate)
    return requests


def services(*names: str) -> Services:
    models = Models(Path("target"), None, slots=1, context=64, threads=1)
    found = Services("ours", Checkout(), models, [Setting.parse(name) for name in names])
    found._addresses = {True: "address"}
    return found


async def ask(system: Services, prompt: Prompt, setting: str) -> None:
    await system.asking(prompt, Setting.parse(setting), 20)(Stream())


@pytest.mark.parametrize(
    ("setting", "mode", "drafter"),
    [("plain", "OFF", "REMOTE"), ("3", "FIXED", "REMOTE"), ("auto", "AUTO", "UNSPECIFIED"), ("ngram", "AUTO", "NGRAM")],
)
async def test_nothing_is_expected_but_where_that_is_measured(
    asked: list[generation_pb2.GenerateRequest], setting: str, mode: str, drafter: str
) -> None:
    system = services(setting)
    await system.rehearse([PROMPT, PREDICTED], 20)
    assert asked == []
    await ask(system, PREDICTED, setting)
    ((speculation, has_prediction),) = [(each.speculation, each.HasField("prediction")) for each in asked]
    assert not has_prediction
    assert generation_pb2.SpeculationMode.Name(speculation.mode) == f"SPECULATION_MODE_{mode}"
    assert generation_pb2.Drafter.Name(speculation.drafter) == f"DRAFTER_{drafter}"


async def test_what_the_prompt_predicts_is_expected_else_what_plain_decoding_said_with_edits(
    asked: list[generation_pb2.GenerateRequest],
) -> None:
    system = services("plain", "prediction")
    await system.rehearse([PROMPT, PREDICTED, PROMPT], 20)
    assert [(each.text, each.max_tokens, each.speculation.mode) for each in asked] == [
        ("def f():", 20, generation_pb2.SPECULATION_MODE_OFF)
    ]
    asked.clear()
    traced: Any = system.again({}, system.settings)
    traced._addresses = system._addresses
    for each in (system, traced):
        await ask(each, PROMPT, "prediction")
        await ask(each, PREDICTED, "prediction")
    assert [each.prediction.text for each in asked] == [with_edits(TEXT), "    return 1\n"] * 2
    assert {each.speculation.drafter for each in asked} == {generation_pb2.DRAFTER_UNSPECIFIED}
