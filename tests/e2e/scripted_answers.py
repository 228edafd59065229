"""Answers with cycles of every kind, as a target and its drafts would give them, to whoever asks over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.http.server import HttpServer
from outrider.v1 import generation_pb2
from services.frame.program.api_keys import ApiKeys
from tests.unit.orchestrator.http.scripted_face import TEXTS, Face, make_face, summary

# Drafter, draft tokens, and how many of them are accepted.
CYCLES = (
    (generation_pb2.DRAFTER_NONE, 0, 0),
    (generation_pb2.DRAFTER_REMOTE, 3, 3),
    (generation_pb2.DRAFTER_REMOTE, 4, 1),
    (generation_pb2.DRAFTER_NGRAM, 2, 2),
    (generation_pb2.DRAFTER_PREDICTION, 5, 4),
)
OFF = generation_pb2.SPECULATION_MODE_OFF
# What a scripted tokenizer makes of a prompt.
NUM_PROMPT_TOKENS = 3
PROMPT = "def read_lines(path):"


@dataclass
class Script:
    """Writes answers whose token at a position is one of `texts`, whoever drafts.

    With drafts it waits before the cycle `hold_at` until it may go `on`.
    """

    texts: Sequence[str] = TEXTS
    max_tokens: int = 24
    hold_at: int | None = None
    on: asyncio.Event = field(default_factory=asyncio.Event)
    # What a request ends with, at once, or where it would wait.
    error: Exception | None = None
    # A position at which plain decoding has another token.
    differs_at: int | None = None
    summary: dict[str, Any] = field(default_factory=dict)

    def __call__(self, request: generation_pb2.GenerateRequest) -> Sequence[Any]:
        """Return what comes of a request."""
        if self.error is not None and self.hold_at is None:
            return [self.error]
        is_plain = request.speculation.mode == OFF
        place = max(0, len(request.tokens.tokens) - NUM_PROMPT_TOKENS)
        end = place + min(request.max_tokens, self.max_tokens - place)
        steps: list[Any] = []
        while place < end:
            if len(steps) == self.hold_at and not is_plain:
                steps.append(self._hold)
            drafter, num_drafted, num_accepted = CYCLES[0 if is_plain else len(steps) % len(CYCLES)]
            num_tokens = min(num_accepted + 1, end - place)
            chunk = self._chunk(place, num_tokens, is_plain=is_plain)
            _report(chunk, len(steps), drafter, num_drafted, num_accepted)
            steps.append(chunk)
            place += num_tokens
        return [*steps, summary(seed=request.seed, **self.summary)]

    def _chunk(self, place: int, num: int, *, is_plain: bool) -> generation_pb2.GenerateChunk:
        chunk = generation_pb2.GenerateChunk()
        for position in range(place, place + num):
            number = position + (is_plain and position == self.differs_at)
            text = self.texts[number % len(self.texts)]
            token = chunk.tokens.add(token=number % len(TEXTS), text=text)
            for chance, value in ((token.log_probabilities.chosen, -0.25), (token.log_probabilities.top.add(), -1.5)):
                chance.token, chance.log_probability = number % len(TEXTS), value
            chunk.text += text
        chunk.content = chunk.text
        return chunk

    async def _hold(self) -> None:
        if self.error is not None:
            raise self.error
        await self.on.wait()


def _report(
    chunk: generation_pb2.GenerateChunk,
    index: int,
    drafter: generation_pb2.Drafter.ValueType,
    num_drafted: int,
    num_accepted: int,
) -> None:
    """Say of a chunk what its cycle did, and where its tokens came from."""
    cycle = chunk.cycle
    cycle.index, cycle.drafter, cycle.plain_ms = index, drafter, 20.0
    cycle.num_draft_tokens, cycle.num_accepted, cycle.batch_rows = num_drafted, num_accepted, num_drafted + 1
    verifying = cycle.verifying
    verifying.waited_ms, verifying.queued_ms, verifying.computed_ms, verifying.decode_ms = 24 + num_drafted, 1, 21, 20
    if num_drafted:
        cycle.drafting.waited_ms, cycle.drafting.computed_ms = 3 + num_drafted, 2 + num_drafted
        cycle.choice.num_draft_tokens, cycle.choice.chance, cycle.choice.worth = num_drafted, 0.75, 1.25
        cycle.choice.tokens_per_s = 50
    for place in range(num_drafted):
        is_accepted = place < num_accepted
        text = chunk.tokens[place].text if place < min(num_accepted, len(chunk.tokens)) else "other"
        cycle.draft_tokens.add(text=text, is_accepted=is_accepted, probability=0.5, chance=0.75)
    last = generation_pb2.TOKEN_ORIGIN_BONUS if num_accepted == num_drafted else generation_pb2.TOKEN_ORIGIN_RECOVERED
    for place, token in enumerate(chunk.tokens):
        token.origin = generation_pb2.TOKEN_ORIGIN_ACCEPTED if place < num_accepted else last


@dataclass
class Served:
    """A scripted face that a browser can reach."""

    url: str
    face: Face
    script: Script

    @property
    def requests(self) -> list[generation_pb2.GenerateRequest]:
        return self.face.service.requests


@asynccontextmanager
async def scripted(script: Script | None = None, keys: ApiKeys | None = None, **settings: Any) -> AsyncIterator[Served]:
    """A server whose answers are those of a script, on a free port."""
    script = script or Script()
    face = make_face(script, keys, http="127.0.0.1:0", **settings)
    server = HttpServer(face.served.settings, face.app)
    async with face.client:
        await server.start()
        try:
            yield Served(server.url, face, script)
        finally:
            await server.stop()
