"""What is known of a drafter from its drafts: how likely its tokens are accepted, and how long it takes.

All requests share it. Counts and means forget, so that another draft model, other texts and another load are noticed.
They share the time as well that may be spent on drafts that are not known to be worth it.
"""

import math
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.drafting.chances import MEMORY, Chances, JointChances
from orchestrator.drafting.common_length import CommonLength
from orchestrator.drafting.drafter import NGRAM, PREDICTION, REMOTE, Draft
from orchestrator.drafting.patience import LEAST_S
from orchestrator.drafting.remote import DraftService
from outrider.v1 import generation_pb2

# Margins of a model between which tokens are told apart: differences of (perturbed) logits, so about log odds.
_MARGINS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
# Lengths of a match in the text, and in a text that is expected.
_MATCHES = (5.0, 6.0, 8.0, 12.0, 16.0, 24.0)
_EXPECTED_MATCHES = (3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)
# Cycles of which the speedup is a mean.
_NUM_CYCLES = 256
# Drafts of which times are a mean.
_NUM_DRAFTS = 16
# Drafts beside prompts of others, one after the other, until it is usual that there are such prompts.
_MOST_DELAYED = 64
# Requests whose prompts may still be read while others draft: this share of all.
_MOST_READING = 0.25
# The share of the time that may go into drafts that are not known to be worth it.
_EXPLORED = 0.01
# Who waits for longer than this for its turn shares cores: to look whether it has to wait takes microseconds.
_LEAST_TURN_S = 0.002
# A draft that hangs costs at most so many plain cycles.
_MOST_PLAIN_CYCLES = 2.0


@dataclass
class Mean:
    """A mean of recent values: a plain one of the first ones, later each counts `memory` times less than all before."""

    memory: int
    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Take note of a value."""
        self.count = min(self.count + 1, self.memory)
        self.value += (value - self.value) / self.count


class Quantile:
    """A quantile of recent values, which an accident among them does not change; the median if no other is named."""

    def __init__(self, share: float = 0.5) -> None:
        """Below it is this share of the values."""
        self._share = share
        self._recent: deque[float] = deque(maxlen=_NUM_DRAFTS)
        self.value = 0.0

    def add(self, value: float) -> None:
        """Take note of a value."""
        self._recent.append(value)
        ordered = sorted(self._recent)
        place = self._share * (len(ordered) - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        self.value = low + place % 1 * (high - low)


def _quartile() -> Quantile:
    """Return the times of what is computed: whatever else the machine does can only add to them."""
    return Quantile(0.25)


@dataclass
class Record:
    """One drafter's. Times are in seconds: of a draft whatever its length, wire and queue included, and of a token.

    `comes` is the share of drafts that came in time, `vain_s` what others are waited for, and `prompt_s` what it takes
    to read a prompt. It `shares_cores` with the target where a draft has waited for its turn.
    """

    chances: Chances
    fixed_s: Quantile = field(default_factory=Quantile)
    token_s: Quantile = field(default_factory=_quartile)
    # In which the cores were taken by another process: it costs nobody anything, but the draft comes later.
    turn_s: Quantile = field(default_factory=Quantile)
    comes: Mean = field(default_factory=lambda: Mean(_NUM_DRAFTS))
    vain_s: Quantile = field(default_factory=Quantile)
    prompt_s: Quantile = field(default_factory=Quantile)
    shares_cores: bool = False
    # Mean of the chances of its tokens.
    chance: Mean = field(default_factory=lambda: Mean(MEMORY))
    _joint: JointChances = field(default_factory=JointChances)
    # For those who share decodes.
    common: CommonLength = field(default_factory=CommonLength)
    # When it last drafted, in seconds of `Exploration.elapsed_s`.
    tried_s: float = -math.inf
    _num_delayed: int = 0

    def note_times(self, draft: Draft, num_drafting: int = 1, *, is_delayed: bool = False) -> None:
        """Learn how long a draft took, or was waited for in vain; `is_delayed` if the service did other things first.

        All sessions of a company begin that way, and would take drafts for dearer than they are from then on. Of the
        drafts of `num_drafting` sessions together a few that are late as one of them ends say little.
        """
        self._num_delayed = self._num_delayed + 1 if is_delayed else 0
        self.shares_cores |= draft.turn_s > _LEAST_TURN_S
        if draft.read_s is not None:
            self.prompt_s.add(draft.read_s)
            return
        if draft.follows_prompt:
            self.prompt_s.add(draft.waited_s)
        # One that never came says something even after a prompt: else a service that hangs is tried again and again.
        if (draft.follows_prompt and draft.tokens) or 0 < self._num_delayed <= _MOST_DELAYED:
            return
        self.comes.memory = _NUM_DRAFTS * num_drafting
        self.comes.add(len(draft.tokens) > 0)
        if draft.tokens:
            self.token_s.add(draft.computed_s / len(draft.tokens))
            self.fixed_s.add(max(0.0, draft.waited_s - draft.computed_s - draft.turn_s))
            self.turn_s.add(draft.turn_s)
        else:
            self.vain_s.add(draft.waited_s)

    def note_chances(self, chances: Sequence[float]) -> None:
        """Learn from the chance of each token of a draft."""
        self._joint.add(chances)
        for chance in chances:
            self.chance.add(chance)

    def joint(self, number: int, chance: float | None = None) -> list[float]:
        """Return how likely the first so many tokens of a draft are accepted together, before it is made.

        For a request whose tokens are accepted by `chance`, on the mean.
        """
        mean = self.chance.value
        return self._joint.of_first(number, mean, 1.0 if chance is None or not mean else chance / mean)

    def forget_times(self) -> None:
        """Take none of the times that are known for those of drafts to come."""
        self.fixed_s, self.turn_s, self.vain_s = Quantile(), Quantile(), Quantile()
        self.token_s = _quartile()
        self.comes = Mean(_NUM_DRAFTS)
        self.shares_cores = False

    def usual_s(self, num_draft_tokens: int) -> float:
        """Return how long a draft of so many tokens is waited for, those that never come included."""
        came_s = self.fixed_s.value + num_draft_tokens * self.token_s.value
        return self.comes.value * came_s + (1 - self.comes.value) * self.vain_s.value


class Exploration:
    """The time that all requests together may spend to find out what drafts are worth: a hundredth of what passes."""

    def __init__(self) -> None:
        # The time of all cycles that were told of.
        self.elapsed_s = 0.0
        # Below zero where something took longer than it usually does.
        self._saved_s = 0.0

    def elapse(self, seconds: float, most_saved_s: float) -> None:
        """Let a cycle pass. No more than `most_saved_s` is saved: what it is spent on would come all at once."""
        self.elapsed_s += seconds
        self._saved_s = min(self._saved_s + _EXPLORED * seconds, most_saved_s)

    def may_take(self, seconds: float, last_s: float = -math.inf) -> bool:
        """Whether so much is saved, and came in since `last_s`."""
        return self._saved_s >= seconds and _EXPLORED * (self.elapsed_s - last_s) >= seconds

    def take(self, seconds: float) -> None:
        """Spend so much of it."""
        self._saved_s -= seconds


class Prompts:
    """Requests whose prompts are being read by one of the services, and how many were."""

    def __init__(self) -> None:
        self._readers: weakref.WeakSet[object] = weakref.WeakSet()
        self._num_read = 0

    def __len__(self) -> int:
        """Return how many are being read."""
        return len(self._readers)

    def begin(self, request: object) -> None:
        """The prompt of a request is being read from now on, until that ends or it is gone."""
        self._readers.add(request)

    def end(self, request: object) -> None:
        """It was read, or given up."""
        if request in self._readers:
            self._readers.discard(request)
            self._num_read += 1

    def num_read(self, request: object) -> int | None:
        """Return how many were read by now; None while one of another request than this is being read."""
        return None if len(self._readers) > (request in self._readers) else self._num_read


class Experience:
    """The records of all drafters, the last `choice` that was made by them, and what came of all.

    There is one of each draft service, by its place among them, of which `service` is used by those who begin.
    """

    def __init__(self, services: Sequence[DraftService] = ()) -> None:
        """Without `services` there is one of which no more is known than what its drafts say."""
        self.choice: generation_pb2.LengthChoice | None = None
        self.exploration = Exploration()
        self.services = services
        self.service = 0
        self.remote = [_record_of_model() for _ in range(max(1, len(services)))]
        self._by_text = {
            NGRAM: Record(Chances(_MATCHES, lambda length: length / (length + 2))),
            # About what is seen where files are edited (`benchmarks/predicted_edits.py`).
            PREDICTION: Record(Chances(_EXPECTED_MATCHES, lambda length: length**2 / (length**2 + 3))),
        }
        # What a cycle without draft tokens takes.
        self.plain_s = Quantile()
        self._plain_s, self._spent_s = Mean(_NUM_CYCLES), Mean(_NUM_CYCLES)
        # Requests that draft or may, and those of them whose prompts draft services or the target read.
        self._requests: weakref.WeakSet[object] = weakref.WeakSet()
        self.draft_prompts, self.target_prompts = Prompts(), Prompts()
        # Verifications that have ended, of all requests.
        self.num_verified = 0

    def of(self, drafter: str, service: int = 0) -> Record | None:
        """Return what is known of a drafter; None of nobody."""
        return self.remote[service] if drafter == REMOTE else self._by_text.get(drafter)

    def observe(self, draft: Draft, num_accepted: int) -> None:
        """Learn what was accepted of a draft."""
        self.num_verified += 1
        if (record := self.of(draft.drafter, draft.service)) is not None:
            record.chances.observe(draft, num_accepted)

    def expect(self, draft: Draft) -> Sequence[float]:
        """Return the chance of each token of a draft, and take note of it: the next ones will be about alike."""
        record = self.of(draft.drafter, draft.service)
        chances = record.chances.of(draft) if record is not None else ()
        if record is not None and draft.drafter == REMOTE:
            record.note_chances(chances)
        return chances

    def rooms(self, most: int) -> list[int]:
        """Return how many draft tokens each service proposes, up to `most`; 0 where it is lost or not there."""
        known = [0 if each.breaker.is_open else min(most, each.model.max_draft_tokens) for each in self.services]
        return known or [most]

    def begin(self, request: object) -> None:
        """A request may draft from now on, until it is gone. The target reads its prompt first."""
        self._requests.add(request)
        self.target_prompts.begin(request)

    @property
    def num_requests(self) -> int:
        """Requests that draft or may."""
        return len(self._requests)

    @property
    def drafting_share(self) -> float:
        """The share of all requests whose prompts no draft service reads now."""
        return 1 - len(self.draft_prompts) / max(1, self.num_requests)

    @property
    def have_read(self) -> bool:
        """Whether the prompts of most requests are read: drafts of a few would keep the others waiting."""
        return self.drafting_share >= 1 - _MOST_READING

    @property
    def limit_s(self) -> float:
        """How long a draft is waited for."""
        return max(LEAST_S, _MOST_PLAIN_CYCLES * self.plain_s.value)

    @property
    def speedup(self) -> float:
        """How many times as long plain decoding would take at the moment, as modelled; 0 while that is not known."""
        return self._plain_s.value / self._spent_s.value if self._spent_s.value else 0.0

    def note_cycle(self, plain_s: float, spent_s: float) -> None:
        """Learn what a cycle took, and what its tokens would have taken in plain decoding."""
        self._plain_s.add(plain_s)
        self._spent_s.add(spent_s)


def _record_of_model() -> Record:
    return Record(Chances(_MARGINS, lambda margin: 1 / (1 + math.exp(-margin))))
