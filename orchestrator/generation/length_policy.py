"""The length policy of mode AUTO: as many draft tokens as pay, by what the target quotes and what drafts have shown.

What each number is worth is told by `Worth`; every one is evaluated, zero too. What is worth its rows is decided once
more by the target, by the chances of the very tokens and in the company that is there then.

What is known of drafts is known of the draft service that is used; `service_choice` says which of several that is.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from operator import mul

from orchestrator.drafting.common_length import place_of_best
from orchestrator.drafting.drafter import NOBODY, REMOTE, Draft, Wanted
from orchestrator.drafting.experience import Experience, Mean, Prompts, Record
from orchestrator.drafting.patience import MOST_READ_TOKENS
from orchestrator.generation.cycle import Cycle
from orchestrator.generation.service_choice import VISIT_TOKENS, ServiceChoice
from orchestrator.generation.worth import IDLE, Worth
from outrider.v1 import draft_pb2, generation_pb2, target_pb2

# Tokens of this request that its own mean chance is of.
_MEMORY = 64
# Tokens of other requests that count as much before it has any.
_PRIOR_TOKENS = 32
# Draft tokens until there is a quote and so many drafts were seen.
_FIRST, _NUM_FIRST = VISIT_TOKENS, 4
# What a draft model has to read first is to pay within so many cycles, or the tokens that are left.
_NUM_AMORTIZED = 32
# Who drafts no more has to see a gain of so many tokens in it to begin again.
_MARGIN = 0.05
# No longer drafts are asked for than usually take this share of the time after which one is not waited for any more.
_SAFE = 0.75


class PaidLength:
    """As many tokens as are worth their time."""

    def __init__(self, experience: Experience, most: int) -> None:
        """Draft at most `most` tokens."""
        self._experience = experience
        self._most = most
        experience.begin(self)
        self._draft = Draft()
        self._quote: target_pb2.Quote | None = None
        self._service = ServiceChoice(experience)
        # Of each draft service.
        self._chances = [Mean(_MEMORY) for _ in experience.remote]
        self._drafts = self._is_first = True
        # Whether the draft model has read all and had no reason to stop since.
        self._keeps_up = False
        # Tokens that each has not read; the prompt counts as many.
        self._num_unread = [math.inf for _ in experience.remote]
        # Prompts that draft services and the target had read as the draft under way was asked for, and verifications.
        self._nums_read: list[int | None] = [None for _ in self._prompts]
        self._num_verified = 0
        # What was set aside for the draft under way, to find out what it is worth.
        self._reserved_s = 0.0
        # Whether all of a company try that with it.
        self._is_trial = False
        # Whether it only waits until others have read.
        self._is_held_back = False

    def choose(self, most: int, num_left: float = math.inf) -> Wanted:
        """Return the number that is worth most, with when a draft should end earlier."""
        room, quote = min(most, self._most), self._quote
        self._is_trial = self._is_held_back = False
        self._nums_read = [prompts.num_read(self) for prompts in self._prompts]
        self._num_verified = self._experience.num_verified
        if self._is_first:
            # The first token comes as soon as it can: before its prompt is read the draft would have to read it too.
            return Wanted(0, num_looked_up=room)
        rooms = self._experience.rooms(room)
        service = self._service.choose(rooms, self._worth, is_drafting=self._drafts)
        record, most = self._experience.remote[service], rooms[service] or room
        if quote is None or not _is_known(record, quote) or self._service.is_visit:
            return self._after_reading(
                Wanted(min(_FIRST, most), num_looked_up=room, service=service), pays=self._experience.have_read
            )
        worth = Worth(record, quote, self._most)
        most = min(most, self._most_in_time(record), worth.most)
        chance = self._mean_chance(record)
        values = worth.values(record.joint(most, chance))
        catch_up_cost = worth.cost_of(self._catch_up_s(record)) / min(_NUM_AMORTIZED, num_left)
        number, early_end = self._number(record, quote, worth, values, catch_up_cost)
        # What is tried is what the model's drafts are worth.
        num_looked_up = 0 if self._is_trial else room
        self._experience.choice = generation_pb2.LengthChoice(
            num_draft_tokens=number,
            chance=chance,
            worth=max(values),
            draft_ms=1e3 * record.fixed_s.value,
            token_ms=1e3 * record.token_s.value,
            row_ms=quote.row_ms[0] if quote.row_ms else 0.0,
            tokens_per_s=1e3 * quote.tokens_per_ms,
            draft_address=self._experience.services[service].address if len(rooms) > 1 else "",
        )
        return self._after_reading(
            Wanted(
                number,
                early_end,
                num_looked_up=num_looked_up,
                is_better=partial(self._is_worth_more, max(values), quote),
                limit_s=self._experience.limit_s,
                service=service,
                choice=self._experience.choice,
            ),
            pays=self._pays_beside_readers(values[number] + worth.costs[number], worth.costs[number]),
        )

    def _pays_beside_readers(self, brought: float, cost: float) -> bool:
        """Whether drafts that bring and cost so many tokens do so while some cannot draft yet, and wait for them."""
        share = self._experience.drafting_share
        return self._experience.have_read if self._is_trial else share == 1 or share * brought > cost

    def _after_reading(self, wanted: Wanted, *, pays: bool) -> Wanted:
        """Return what is wanted by now: first the service reads what it lacks, while decoding goes on.

        Who shares decodes with others drafts once that `pays`, though those who read wait for it.
        """
        if self._service.is_visit:
            return wanted
        if not wanted.num_draft_tokens:
            self._keeps_up = False
            return wanted
        is_alone = self._num_waiting() == 1
        if self._lags(wanted.service):
            # Nobody else waits for it: reading ahead costs a cycle without a draft.
            reads_ahead = not is_alone or self._is_long(wanted.service)
            return replace(wanted, reads_ahead=reads_ahead)
        if is_alone or pays:
            return wanted
        self._is_held_back = True
        return replace(wanted, num_draft_tokens=0)

    def _lags(self, service: int) -> bool:
        """Whether its draft model has more to read than it does beside a draft; where all begin, all have as much."""
        num_readers = 1 if self._keeps_up else self._num_waiting()
        return self._num_unread[service] * num_readers > MOST_READ_TOKENS

    def _is_long(self, service: int) -> bool:
        """Whether a prompt usually takes longer to be read than a cycle takes."""
        return self._experience.remote[service].prompt_s.value > self._experience.plain_s.value

    def _is_worth_more(self, worth: float, quote: target_pb2.Quote, draft: Draft) -> bool:
        """Whether the best number of tokens of a draft that took no time is worth more than so many tokens."""
        record = self._experience.of(draft.drafter)
        if record is None:
            return False
        tokens = accumulate(accumulate(record.chances.of(draft), mul))
        costs = (quote.tokens_per_ms * row_ms for row_ms in quote.row_ms)
        return any(brought - cost > worth for brought, cost in zip(tokens, costs, strict=False))

    def _number(
        self, record: Record, quote: target_pb2.Quote, worth: Worth, values: Sequence[float], catch_up_cost: float
    ) -> tuple[int, draft_pb2.EarlyEnd | None]:
        """Return the number, and when a draft should end earlier, by what each number is worth.

        What the draft model has to read first costs so much in each cycle.
        """
        most = len(values) - 1
        if quote.num_sessions > 1:
            return min(most, self._common(record, worth, catch_up_cost)), None
        # One that stays out has to see a gain to come in, and the other way round.
        self._drafts = max(values) - catch_up_cost > (0.0 if self._drafts else _MARGIN)
        if not self._drafts:
            return int(most > 0 and self._may_explore(record)), None
        # Nobody waits for it, and after each token it is known whether another one is worth it. So it is as many as are
        # where the drafter is sure.
        chances = record.chances.by_margin()
        sure = worth.values([max(chances) ** depth for depth in range(1, most + 1)])
        number = max(1, place_of_best(values))
        # Another token is not worth it: its chance is about the mean, its cost about that of all.
        token_cost = (worth.costs[number] - worth.cost_of(record.usual_s(0))) / number
        least_chance = min(1.0, token_cost / max(self._mean_chance(record), 0.01))
        early_end = draft_pb2.EarlyEnd(min_joint_chance=least_chance, margins=record.chances.edges, chances=chances)
        return place_of_best(sure), early_end

    def chances(self, draft: Draft) -> Sequence[float]:
        """Return the chance of each token."""
        self._draft = draft
        if draft.is_reading:
            self._experience.draft_prompts.begin(self)
            return ()
        is_delayed = self._is_delayed(draft)
        if draft.drafter != NOBODY:
            # Who looks up its draft does not ask how far the model has come.
            self._experience.draft_prompts.end(self)
        if draft.read_s is not None:
            self._num_unread[draft.service], self._keeps_up = 0, True
        self._service.note(draft)
        record = self._experience.of(draft.drafter, draft.service)
        if record is None:
            return ()
        num_drafting = max(1, self._quote.num_drafting) if self._quote is not None else 1
        record.note_times(draft, num_drafting, is_delayed=is_delayed)
        record.tried_s = self._experience.exploration.elapsed_s
        chances = self._experience.expect(draft)
        if draft.drafter == REMOTE:
            for chance in chances:
                self._chances[draft.service].add(chance)
        # What is tried is verified in any case.
        return () if self._is_trial else chances

    def observe(self, cycle: Cycle) -> None:
        """Learn from what was accepted, and from the quote."""
        verification = cycle.verification
        self._experience.observe(cycle.draft, verification.result.num_accepted)
        self._quote = verification.quote
        self._experience.target_prompts.end(self)
        self._is_first = False
        self._num_unread = [number + len(cycle.tokens) for number in self._num_unread]
        if self._draft.drafter == REMOTE and self._draft.tokens:
            self._num_unread[self._draft.service], self._keeps_up = 0, True
        spent_s = self._draft.waited_s + verification.waited_s
        if verification.quote is not None:
            self._experience.plain_s.add(verification.plain_s)
            self._experience.note_cycle(len(cycle.tokens) * verification.plain_s, spent_s)
        self._experience.exploration.take(-self._reserved_s)
        self._reserved_s = 0.0
        if self._is_trial and not (self._draft.is_reading or self._draft.read_s is not None or self._is_held_back):
            self._experience.remote[self._service.service].common.end_round(self)
        try_s = self._exploring_s(self._experience.remote[0])
        self._service.spend(self._draft, verification.waited_s, self._num_waiting(), try_s, is_drafting=self._drafts)

    def _common(self, record: Record, worth: Worth, catch_up_cost: float) -> int:
        """Return the number of all sessions, which wait for each other."""
        values, common = worth.values(record.joint(worth.most)), record.common
        begins_round = common.begins_round(self._experience.plain_s.value)
        number = common.choose(values, worth.costs, catch_up_cost)
        if not number:
            if worth.most and begins_round and self._may_explore(record):
                common.begin_trial(self, values)
            number = common.tried(self, worth.most)
            self._is_trial = number > 0
        self._drafts = number > 0
        return number

    def _mean_chance(self, record: Record) -> float:
        own = self._chances[self._service.service]
        return (own.value * own.count + record.chance.value * _PRIOR_TOKENS) / (own.count + _PRIOR_TOKENS)

    def _most_in_time(self, record: Record) -> int:
        """Return how many tokens are usually drafted well within the time that a draft is waited for, 1 at least."""
        left_s = _SAFE * self._experience.limit_s - record.fixed_s.value - record.turn_s.value
        return max(1, int(left_s / record.token_s.value)) if record.token_s.value else _FIRST

    def _may_explore(self, record: Record) -> bool:
        """Whether to find out, by a token or a trial, if drafts pay by now. Several services are visited instead."""
        if len(self._chances) > 1:
            return False
        is_alone = self._num_waiting() == 1
        # What the draft model read before its last draft hid how long drafts take by now.
        draft = self._draft
        has_caught_up = draft.read_s is not None or (draft.follows_prompt and len(draft.tokens) > 0)
        needed_s, exploration = self._exploring_s(record), self._experience.exploration
        if not ((is_alone and has_caught_up) or exploration.may_take(needed_s)):
            return False
        # At once: else all sessions that are about to choose do the same.
        exploration.take(needed_s)
        self._reserved_s = needed_s if is_alone else 0.0
        return True

    def _exploring_s(self, record: Record) -> float:
        """Return what a try takes of the time of all who wait, with what is read before it."""
        num_waiting = self._num_waiting()
        is_alone = num_waiting == 1
        tried_s = record.usual_s(1) if is_alone else record.common.trial_cost * self._experience.plain_s.value
        return num_waiting * (tried_s + self._catch_up_s(record))

    def _catch_up_s(self, record: Record) -> float:
        """Return for how long all wait until the draft model has read what it lacks of all who begin together."""
        num_unread = self._num_unread[self._service.service]
        if not self._lags(self._service.service):
            return 0.0
        if not record.shares_cores:
            return record.prompt_s.value
        # On the target's cores each waits for the others, too. A draft token is one row of each of them.
        num_readers = max(self._num_waiting(), self._experience.num_requests)
        rows_s = num_unread * record.token_s.value if record.token_s.value else math.inf
        return min(num_readers * record.prompt_s.value, rows_s)

    @property
    def _prompts(self) -> Sequence[Prompts]:
        return self._experience.draft_prompts, self._experience.target_prompts

    def _is_delayed(self, draft: Draft) -> bool:
        """Whether prompts of others were read meanwhile, or one that did not come had no cores.

        Where the target reads prompts, or has decoded for others, it may have had these.
        """
        by_draft, by_target = (
            now is None or now != before
            for before, now in zip(self._nums_read, (prompts.num_read(self) for prompts in self._prompts), strict=True)
        )
        has_verified = self._experience.num_verified > self._num_verified
        is_kept_busy = (self._quote is not None and self._quote.idle_share < IDLE) or (
            has_verified and self._experience.remote[draft.service].shares_cores
        )
        return by_draft or (not draft.tokens and (by_target or is_kept_busy))

    def _num_waiting(self) -> int:
        # Who shares a decode waits as well.
        return max(1, self._quote.num_sessions) if self._quote is not None else 1

    def _worth(self, service: int) -> float:
        """Return what the best number of a service's tokens is worth, by its own record."""
        record, quote = self._experience.remote[service], self._quote
        if quote is None or not _is_known(record, quote):
            return -math.inf
        most = min(self._experience.rooms(self._most)[service], self._most_in_time(record))
        values = Worth(record, quote, self._most).values(record.joint(most))
        return max(values[1:], default=-math.inf)


def _is_known(record: Record, quote: target_pb2.Quote) -> bool:
    return quote.tokens_per_ms > 0 and record.comes.count >= _NUM_FIRST
