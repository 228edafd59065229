"""The floor under company.py: both models in one process, in a bare loop that no service and no client disturbs.

All sessions draft together, one decode for each draft token, and are verified together in the next; tokens are the
largest logits. It reads questions from stdin and answers on stdout, a JSON object a line.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.bench.load.streams import Chunk, Stream
from services.engine.model.model import Model
from services.engine.runtime.interface import Logits, Segment
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions


@dataclass
class Session:
    """A committed sequence in slot `slot` of both models, and how many of its tokens the draft model holds."""

    slot: int
    tokens: list[int]
    num_drafted: int = 0


class Floor:
    """The two models. Slots from 0 on give equal numbers of rows, so that llama.cpp takes one pass for each decode."""

    def __init__(self, target: Path, draft: Path, options: RuntimeOptions) -> None:
        self._models = Model(target), Model(draft)
        self._target, self._draft = (LlamaRuntime(model, options) for model in self._models)
        # The prompt that was last evaluated in each slot.
        self._prompts: list[list[int]] = [[] for _ in range(options.num_slots)]

    def generate(self, prompts: Sequence[str], num_draft_tokens: int, num_tokens: int) -> list[Stream]:
        """Go on with all prompts until the first one has so many tokens more."""
        vocabulary = self._models[0].vocabulary
        sessions = [
            Session(slot, vocabulary.tokenize(text, add_bos=True, parse_special=False))
            for slot, text in enumerate(prompts)
        ]
        streams = [Stream() for _ in sessions]
        ends = [len(session.tokens) + num_tokens for session in sessions]
        for session, stream in zip(sessions, streams, strict=True):
            self._prefill(session)
            stream.chunks.append(Chunk(time.perf_counter(), 1))
        while all(len(session.tokens) < end for session, end in zip(sessions, ends, strict=True)):
            drafts = self._drafts(sessions, num_draft_tokens) if num_draft_tokens else [[] for _ in sessions]
            committed = self._verify(sessions, drafts)
            at_s = time.perf_counter()
            for stream, num_committed in zip(streams, committed, strict=True):
                stream.chunks.append(Chunk(at_s, num_committed))
        for session, stream, end in zip(sessions, streams, ends, strict=True):
            stream.has_ended = len(session.tokens) >= end
        return streams

    def _prefill(self, session: Session) -> None:
        num_held = len(session.tokens) - 1 if session.tokens == self._prompts[session.slot] else 0
        for runtime in (self._draft, self._target):
            runtime.cut(session.slot, num_held)
            (logits,) = runtime.decode([Segment(session.slot, num_held, session.tokens[num_held:], 1)])
        self._prompts[session.slot] = list(session.tokens)
        session.num_drafted = len(session.tokens)
        session.tokens.append(_best(logits)[0])

    def _drafts(self, sessions: Sequence[Session], num_draft_tokens: int) -> list[list[int]]:
        # A draft that was accepted to its end has left its last token to be evaluated: then two rows for all.
        num_rows = max(len(session.tokens) - session.num_drafted for session in sessions)
        for session in sessions:
            self._draft.cut(session.slot, len(session.tokens) - num_rows)
        rows = [session.tokens[-num_rows:] for session in sessions]
        drafts: list[list[int]] = [[] for _ in sessions]
        for _ in range(num_draft_tokens):
            segments = [
                Segment(session.slot, len(session.tokens) + len(draft) - len(tokens), tokens, 1)
                for session, draft, tokens in zip(sessions, drafts, rows, strict=True)
            ]
            for draft, logits in zip(drafts, self._draft.decode(segments), strict=True):
                draft.extend(_best(logits))
            rows = [draft[-1:] for draft in drafts]
        return drafts

    def _verify(self, sessions: Sequence[Session], drafts: Sequence[Sequence[int]]) -> list[int]:
        """Commit what the target says; return the number of tokens of each session."""
        segments = [
            Segment(session.slot, len(session.tokens) - 1, [session.tokens[-1], *draft], len(draft) + 1)
            for session, draft in zip(sessions, drafts, strict=True)
        ]
        numbers = []
        for session, draft, logits in zip(sessions, drafts, self._target.decode(segments), strict=True):
            best = _best(logits)
            num_accepted = 0
            while num_accepted < len(draft) and draft[num_accepted] == best[num_accepted]:
                num_accepted += 1
            length = len(session.tokens)
            session.tokens.extend(best[: num_accepted + 1])
            self._target.cut(session.slot, length + num_accepted)
            if draft:
                session.num_drafted = length + min(num_accepted, len(draft) - 1)
                self._draft.cut(session.slot, session.num_drafted)
            numbers.append(num_accepted + 1)
        return numbers


def _best(logits: Logits) -> list[int]:
    best: list[int] = logits.argmax(axis=1).tolist()
    return best


def main() -> None:
    """Answer questions until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--draft", type=Path, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--flash-attention", choices=("on", "off"), default="off")
    arguments = parser.parse_args()
    options = RuntimeOptions(
        num_slots=arguments.slots,
        context_length=arguments.context,
        num_threads=arguments.threads,
        flash_attention=arguments.flash_attention == "on",
    )
    floor = Floor(arguments.target, arguments.draft, options)
    for line in sys.stdin:
        streams = floor.generate(**json.loads(line))
        answer = [{"chunks": stream.chunks, "has_ended": stream.has_ended} for stream in streams]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
