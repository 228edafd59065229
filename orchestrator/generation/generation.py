"""One generation: from a checked request to chunks and a summary."""

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing

from orchestrator.drafting.drafter import Drafter
from orchestrator.generation.answer import Answer, AnswerParts
from orchestrator.generation.cycle import Cycle, LengthPolicy, Target, run_cycles
from orchestrator.generation.prompt_report import PromptReporter
from orchestrator.generation.statistics import Statistics
from orchestrator.generation.text import TextStream
from orchestrator.peers.target import Verification
from outrider.v1 import generation_pb2
from services.frame.telemetry import Telemetry
from services.session.sequence import TokenSequence

# JavaScript's numbers hold whole numbers up to this many bits, and its gRPC libraries fail above it, or round.
_DRAWN_BITS = 53
_CALLS = generation_pb2.FINISH_REASON_TOOL_CALLS


def draw_seed() -> int:
    """Return a random seed for a request that names none, one that clients of every language can hold."""
    return secrets.randbits(_DRAWN_BITS)


class Generation:
    """Runs the cycles of one request and turns them into messages."""

    def __init__(
        self,
        prompt: TokenSequence,
        target: Target,
        drafter: Drafter,
        text: TextStream,
        *,
        policy: LengthPolicy,
        max_tokens: int,
        context_length: int,
        telemetry: Telemetry,
        stop_tokens: Collection[int] = (),
        answer: Answer | None = None,
        report: Callable[[Cycle], generation_pb2.CycleReport] | None = None,
        started_s: float | None = None,
    ) -> None:
        """Go on from `prompt`, which grows by what is generated, up to the first of `stop_tokens`.

        The text of a chat is parted as an `answer`. Each chunk has a `report` of its cycle, if any is made. `started_s`
        is when the request came, in seconds of `time.perf_counter`; now if absent.
        """
        self._answer = answer
        self._report = report
        self._sequence = prompt
        self._num_prompt_tokens = len(prompt)
        self._num_cached_prompt_tokens: int | None = None
        self._target = target
        self._drafter = drafter
        self._text = text
        self.num_generated_tokens = 0
        self._num_reasoning_tokens = 0
        self._policy = policy
        self._telemetry = telemetry
        self._max_tokens = max_tokens
        self._max_length = min(context_length, len(prompt) + max_tokens)
        self._started_s = time.perf_counter() if started_s is None else started_s
        self._first_token_s: float | None = None
        self._stop_tokens = frozenset(stop_tokens)
        self._is_stopped = False
        self._ended = False
        self._is_exact = True
        self._statistics = Statistics()

    @property
    def statistics(self) -> Statistics:
        """What its cycles came to so far."""
        self._statistics.num_resyncs = self._target.num_resyncs + self._drafter.num_resyncs
        self._statistics.num_fallbacks = self._drafter.num_fallbacks
        return self._statistics

    @property
    def num_tool_calls(self) -> int:
        """How many tools it has called so far."""
        return 0 if self._answer is None else self._answer.num_tool_calls

    async def prompt_reports(
        self, scorings: AsyncGenerator[Verification, None], token_bytes: Sequence[bytes]
    ) -> AsyncGenerator[generation_pb2.PromptReport, None]:
        """Yield the prompt's tokens as they are scored, which `scorings` does, before there are chunks."""
        reporter = PromptReporter(self._sequence.tokens, token_bytes)
        async with aclosing(scorings) as stream:
            async for scoring in stream:
                self._note_first(scoring)
                self._statistics.wait(scoring)
                self._is_exact = self._is_exact and scoring.result.exact
                yield reporter.report(scoring.result.scored_tokens)
        if self._num_prompt_tokens == 1:
            yield reporter.report(())

    async def chunks(self) -> AsyncGenerator[generation_pb2.GenerateChunk, None]:
        """Yield what each cycle commits."""
        cycles = run_cycles(
            self._sequence,
            self._target,
            self._drafter,
            self._policy,
            max_length=self._max_length,
            telemetry=self._telemetry,
        )
        async with aclosing(cycles) as stream:
            async for cycle in stream:
                if cycle.index == 0:
                    self._first_token_s = time.perf_counter()
                    self._note_first(cycle.verification)
                self._statistics.count(cycle)
                self._ended = cycle.verification.result.is_end_of_generation
                self._is_exact = self._is_exact and cycle.verification.result.exact
                yield self._chunk(cycle)
                if self._text.is_stopped or self._is_stopped:
                    break
        last = generation_pb2.GenerateChunk(text=self._text.finish())
        if self._answer is not None:
            self._answer.feed(last.text)
            _add_parts(last, self._answer.finish())
        if last.ByteSize():
            yield last

    def summary(self, seed: int, trace_id: str, *, is_same_target: bool = True) -> generation_pb2.GenerateSummary:
        """Return the last message. Text of unequal targets is not exact, even if each of them is."""
        statistics = self.statistics
        return generation_pb2.GenerateSummary(
            finish_reason=self._finish_reason(),
            usage=generation_pb2.Usage(
                num_prompt_tokens=self._num_prompt_tokens,
                num_generated_tokens=self.num_generated_tokens,
                num_cached_prompt_tokens=self._num_cached_prompt_tokens or 0,
                num_reasoning_tokens=self._num_reasoning_tokens,
            ),
            timings=generation_pb2.GenerationTimings(
                first_token_ms=((self._first_token_s or self._started_s) - self._started_s) * 1e3,
                total_ms=(time.perf_counter() - self._started_s) * 1e3,
                target_ms=statistics.target_waited_s * 1e3,
                draft_ms=statistics.draft_waited_s * 1e3,
                target_queued_ms=statistics.target_queued_s * 1e3,
                draft_queued_ms=statistics.draft_queued_s * 1e3,
                target_computed_ms=statistics.target_computed_s * 1e3,
                draft_computed_ms=statistics.draft_computed_s * 1e3,
            ),
            speculation=statistics.to_message(),
            exact=self._is_exact and is_same_target,
            seed=seed,
            trace_id=trace_id,
            draft_problem=self._drafter.problem,
            stop=self._text.stop,
        )

    def _chunk(self, cycle: Cycle) -> generation_pb2.GenerateChunk:
        chunk = generation_pb2.GenerateChunk()
        log_probabilities = cycle.verification.result.log_probabilities
        end = cycle.tokens[-1] if self._ended else None
        for index, (token, origin) in enumerate(zip(cycle.tokens, origins(cycle), strict=True)):
            self._is_stopped = token in self._stop_tokens
            # Whatever ends a generation is no part of its text, though some such tokens have one.
            text = "" if self._is_stopped or token == end else self._text.feed(token)
            added = chunk.tokens.add(token=token, origin=origin, text=text)
            if log_probabilities:
                added.log_probabilities.CopyFrom(log_probabilities[index])
            chunk.text += added.text
            if self._answer is not None:
                self._answer.feed(added.text, token)
                self._num_reasoning_tokens += self._answer.is_thinking
            self.num_generated_tokens += 1
            if self._text.is_stopped or self._is_stopped:
                break
        if self._answer is not None:
            _add_parts(chunk, self._answer.drain())
        if self._report is not None:
            chunk.cycle.CopyFrom(self._report(cycle))
        if cycle.index == 0:
            chunk.usage.CopyFrom(self._prompt_usage())
        return chunk

    def _prompt_usage(self) -> generation_pb2.Usage:
        return generation_pb2.Usage(
            num_prompt_tokens=self._num_prompt_tokens, num_cached_prompt_tokens=self._num_cached_prompt_tokens or 0
        )

    def _note_first(self, verification: Verification) -> None:
        """Take note of what the target had of the prompt when it was first asked."""
        if self._num_cached_prompt_tokens is None:
            self._num_cached_prompt_tokens = verification.num_cached_tokens

    def _finish_reason(self) -> generation_pb2.FinishReason.ValueType:
        if self._text.is_stopped or self._is_stopped:
            return generation_pb2.FINISH_REASON_STOP
        if self._ended:
            return _CALLS if self.num_tool_calls else generation_pb2.FINISH_REASON_END_OF_GENERATION
        if self.num_generated_tokens < self._max_tokens:
            return generation_pb2.FINISH_REASON_CONTEXT_FULL
        return generation_pb2.FINISH_REASON_MAX_TOKENS


def _add_parts(chunk: generation_pb2.GenerateChunk, parts: AnswerParts) -> None:
    chunk.content, chunk.reasoning = parts.content, parts.reasoning
    chunk.tool_calls.extend(parts.tool_calls)


def origins(cycle: Cycle) -> list[generation_pb2.TokenOrigin.ValueType]:
    """Say where each committed token came from."""
    num_accepted = cycle.verification.result.num_accepted
    is_bonus = num_accepted == len(cycle.draft.tokens)
    last = generation_pb2.TOKEN_ORIGIN_BONUS if is_bonus else generation_pb2.TOKEN_ORIGIN_RECOVERED
    return [generation_pb2.TOKEN_ORIGIN_ACCEPTED] * num_accepted + [last]
