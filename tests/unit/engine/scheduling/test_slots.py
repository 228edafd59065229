"""Which slot goes to whom."""

from random import Random

import pytest

from services.engine.scheduling.slots import SlotTable


def _assign(table: SlotTable, *session_ids: str) -> None:
    """Let sessions be at work, one after the other, until each is idle again."""
    for session_id in session_ids:
        slot = table.assign(session_id)
        assert slot is not None
        slot.is_busy = False


def _sessions(table: SlotTable) -> set[str | None]:
    return {slot.session_id for slot in table.slots}


def test_a_session_keeps_its_slot() -> None:
    table = SlotTable(2)
    _assign(table, "a", "b")
    first = table.find("a")
    _assign(table, "a", "b", "a")
    assert table.find("a") is first
    assert table.num_evictions == 0


def test_free_slots_are_taken_before_anybody_is_evicted() -> None:
    table = SlotTable(3)
    _assign(table, "a")
    table.release("a")
    _assign(table, "b", "c")
    assert _sessions(table) == {"a", "b", "c"}
    assert table.num_evictions == 0


def test_the_least_recently_used_session_goes_first() -> None:
    table = SlotTable(3)
    _assign(table, "a", "b", "c", "a")
    _assign(table, "d")
    assert _sessions(table) == {"a", "c", "d"}
    _assign(table, "e")
    assert _sessions(table) == {"a", "d", "e"}
    assert table.num_evictions == 2


def test_released_sessions_go_before_the_least_recently_used() -> None:
    table = SlotTable(3)
    _assign(table, "a", "b", "c")
    table.release("c")
    _assign(table, "d")
    assert _sessions(table) == {"a", "b", "d"}
    assert table.find("c") is None


def test_a_released_session_that_comes_back_is_as_good_as_any() -> None:
    table = SlotTable(2)
    _assign(table, "a", "b")
    table.release("b")
    _assign(table, "b", "c")
    assert _sessions(table) == {"b", "c"}


def test_a_busy_session_is_never_evicted_nor_given_out_twice() -> None:
    table = SlotTable(2)
    busy = table.assign("a")
    assert busy is not None
    table.release("a")
    _assign(table, "b", "c")
    assert _sessions(table) == {"a", "c"}
    assert table.assign("a") is None
    other = table.assign("c")
    assert other is not None
    assert table.assign("d") is None
    assert _sessions(table) == {"a", "c"}
    busy.is_busy = False
    assert table.assign("d") is busy


def test_a_slot_keeps_its_tokens_when_it_changes_hands() -> None:
    table = SlotTable(1)
    slot = table.assign("a")
    assert slot is not None
    slot.held.extend([3, 1, 2])
    slot.is_busy = False
    assert table.assign("b") is slot
    assert slot.held.tokens == [3, 1, 2]
    assert table.find("a") is None


def test_releasing_an_unknown_session_changes_nothing() -> None:
    table = SlotTable(1)
    _assign(table, "a")
    table.release("b")
    assert _sessions(table) == {"a"}


def test_sessions_at_work_sit_side_by_side() -> None:
    """Gaps are padded in every decode."""
    table = SlotTable(8)
    slots = {name: table.assign(name) for name in "abcdefgh"}
    for name in "bcdefgh":
        slot = slots[name]
        assert slot is not None
        slot.is_busy = False
    for name in "hcfbeg":
        table.release(name)
    _assign(table, "d")
    # "a" works in the first slot, and "d" is idle in the fourth.
    new = [table.assign(name) for name in "xyz"]
    assert [slot.index for slot in new if slot] == [1, 2, 4]


def test_a_gap_between_those_at_work_is_filled_first() -> None:
    expected = {"a", "e"}
    table = SlotTable(6, expected.__contains__)
    _assign(table, *"abcdef")
    for name in "bcdf":
        table.release(name)
    new = [table.assign(name) for name in "wxyz"]
    assert [slot.index for slot in new if slot] == [1, 2, 3, 5]


def test_a_new_session_takes_the_slot_that_holds_its_prompt() -> None:
    """Also where it is not the nearest to those at work, as "f", unless the gaps cost more than the prompt, as "g"."""
    table = SlotTable(8)
    for name in "abcdefgh":
        _assign(table, name)
        slot = table.find(name)
        assert slot is not None
        slot.held.extend([ord(name)] * 100)
        table.release(name)
    working = table.assign("w", [ord("c")] * 90)
    assert working is not None
    assert working.index == 2
    for letter, index in (("b", 1), ("g", 0), ("f", 5), ("?", 3)):
        slot = table.assign(f"new {letter}", [ord(letter)] * 90)
        assert slot is not None
        assert slot.index == index


@pytest.mark.parametrize("num_sessions", [4, 8, 16, 64])
def test_a_company_that_comes_again_in_another_order_finds_its_prompts(num_sessions: int) -> None:
    """What is a gap when the first two of them are there is none when all are. Of 16 four had to read theirs again."""
    table = SlotTable(num_sessions)
    order = list(range(num_sessions))
    for number in range(8):
        for name in order:
            slot = table.assign(f"{number} {name}", [name] * 30)
            assert slot is not None
            if number:
                assert slot.held.tokens[0] == name
            else:
                slot.held.extend([name] * 40)
        for slot in table.slots:
            slot.is_busy = False
            table.release(slot.session_id or "")
        Random(number).shuffle(order)


def test_what_is_held_is_what_sessions_hold_that_are_not_over() -> None:
    table = SlotTable(3)
    assert table.num_held_tokens == 0
    for session_id, tokens in (("a", [1, 2, 3]), ("b", [4, 5])):
        slot = table.assign(session_id)
        assert slot is not None
        slot.held.extend(tokens)
        slot.is_busy = False
    assert table.num_held_tokens == 5
    table.release("a")
    assert table.num_held_tokens == 2
    # It keeps its tokens, which are in use again.
    assert table.assign("a") is not None
    assert table.num_held_tokens == 5


def _chat(table: SlotTable, session_id: str, tokens: list[int], num_answered: int = 10) -> int:
    """Let a session hold a prompt and an answer to it, and end; return where."""
    slot = table.assign(session_id, tokens)
    assert slot is not None
    slot.held.cut(slot.held.common_length(0, tokens))
    slot.held.extend([*tokens[len(slot.held) :], *[1] * num_answered])
    slot.is_busy = False
    table.release(session_id)
    return slot.index


def test_where_nobody_is_at_work_the_chat_that_was_left_longest_goes_first() -> None:
    """Not the one that was answered last, which is the likeliest to go on."""
    table = SlotTable(3)
    indices = [_chat(table, name, [ord(name)] * 40) for name in "abc"]
    going_on = [ord("a")] * 40 + [1] * 10 + [2] * 20
    assert _chat(table, "a again", going_on) == indices[0]
    assert _chat(table, "d", [ord("d")] * 40) == indices[1]
    assert _chat(table, "e", [ord("e")] * 40) == indices[2]
    assert _chat(table, "a once more", [*going_on, *[1] * 10, 2]) == indices[0]


def test_a_chat_that_begins_like_another_one_does_not_take_its_place() -> None:
    """What it holds in common can be copied, the rest of the other one would have to be evaluated again."""
    table = SlotTable(3)
    system = [7] * 1000
    long = _chat(table, "long", system + [2] * 400)
    beside = _chat(table, "beside", [*system, 3])
    assert beside != long
    # A short one is worth less than the way to another slot.
    assert _chat(table, "beside too", [*system, 4]) == beside
    assert _chat(table, "long again", system + [2] * 400 + [1] * 10 + [5] * 300) == long


def test_a_chat_goes_on_in_its_place_though_its_long_answer_was_another_one() -> None:
    """Templates leave out what was thought, and an answer may be tokenized in another way than it was generated."""
    table = SlotTable(3)
    prompt = [7] * 100 + [3] * 300
    first = _chat(table, "chat", [*prompt, 8, 9], num_answered=600)
    assert _chat(table, "chat again", [*prompt, 8, *[4] * 50]) == first


def test_a_session_that_a_larger_company_left_far_away_is_moved_to_the_others() -> None:
    table = SlotTable(6, is_expected=lambda session_id: session_id in {"a", "f"})
    _assign(table, "a", "b", "c", "d", "e", "f")
    for session_id in "bcde":
        table.release(session_id)
    asked = [table.nearer(session_id) for _ in range(5) for session_id in "af"]
    (place,) = (index for index, slot in enumerate(asked) if slot is not None)
    target = asked[place]
    assert place == 8 and target is table.slots[4], "a gathering company fills such gaps by itself"
    table.move("a", target)
    assert table.find("a") is target
    assert table.slots[0].session_id is None
    assert _sessions(table) == {None, "a", "b", "c", "d", "f"}


def test_a_prompt_is_not_lost_to_a_gap_that_took_less_padding() -> None:
    """Of 16 prompts that came again and again two to four were lost in each round, as the last streams moved."""
    table = SlotTable(4, is_expected=lambda session_id: session_id in {"a", "d"})
    _assign(table, "a", "b", "c", "d")
    for session_id, slot, num_held in ("b", table.slots[1], 30), ("c", table.slots[2], 20):
        slot.held.extend([slot.index] * num_held)
        table.release(session_id)
    asked = [table.nearer(session_id) for _ in range(10) for session_id in "ad"]
    # Two gaps in each round of two sessions.
    (target,) = filter(None, asked)
    assert asked.index(target) == 19 and target is table.slots[2]


def test_what_another_slot_holds_too_is_not_lost() -> None:
    table = SlotTable(4, is_expected=lambda session_id: session_id in {"a", "d"})
    _assign(table, "a", "b", "c", "d")
    for slot, token, num_held in (table.slots[1], 7, 30), (table.slots[2], 8, 30), (table.slots[3], 7, 40):
        slot.held.extend([token] * num_held)
    table.release("b")
    table.release("c")
    asked = [table.nearer(session_id) for _ in range(5) for session_id in "ad"]
    (target,) = filter(None, asked)
    assert asked.index(target) == 8 and target is table.slots[1]


def test_who_sits_side_by_side_or_among_others_stays() -> None:
    table = SlotTable(4, is_expected=lambda session_id: session_id != "d")
    _assign(table, "a", "b", "c", "d")
    assert not any(table.nearer(session_id) for _ in range(20) for session_id in "abc")
    table.release("b")
    apart = SlotTable(4, is_expected=lambda session_id: True)
    _assign(apart, "a", "b", "c")
    assert not any(apart.nearer(session_id) for _ in range(20) for session_id in "abc"), "none of them is over"
