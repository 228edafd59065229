"""How results are shown: in a sentence, and in tables."""

from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from orchestrator.costs import Costs, ModelCosts
from orchestrator.simulation.real import Parts
from orchestrator.simulation.scenario import Scenario
from orchestrator.simulation.table import Row
from orchestrator.simulation.traces import Seen

# A draft that gives less than so many times plain decoding is not worth it.
_LEAST_GAIN = 1.01
# Cores that others kept busy, above which costs are those of a busy machine.
_MOST_BUSY_ELSEWHERE = 0.2


def rows_table(rows: Sequence[Row], titles: Sequence[str]) -> Table:
    """Return the rows as a table; `titles` name the scenario of each, which has a row of plain decoding."""
    plain = {title: row.achieved for row, title in zip(rows, titles, strict=True) if row.policy == "plain"}
    table = _table(
        ("scenario", "policy"),
        ("draft", "tokens/s", "/plain", "/ideal", "ideal", "chain"),
        "draft: tokens a cycle; tokens/s: of all streams, in virtual time; ideal: what formulas say without overlap; "
        "chain: with a draft that goes on while it is verified",
    )
    before = ""
    for row, title in zip(rows, titles, strict=True):
        if before and title != before:
            table.add_section()
        table.add_row(
            "" if title == before else title,
            row.policy,
            f"{row.num_draft_tokens:g}",
            f"{row.achieved:,.1f}",
            f"{row.achieved / plain[title]:.2f}",
            f"{row.achieved / row.ideal:.3f}",
            f"{row.ideal:,.1f}",
            "" if row.overlapped is None else f"{row.overlapped:,.1f}",
        )
        before = title
    return table


def _table(words: Sequence[str], figures: Sequence[str], caption: str) -> Table:
    """Return a table with columns of words and of figures, which fits into 80 columns."""
    table = Table(*words, caption=caption, box=SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    for heading in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def in_a_sentence(rows: Sequence[Row], *, is_best_tried: bool) -> str:
    """Say of one scenario whether a draft is worth it, or what it gives where its best number was not looked for."""
    plain = next(row for row in rows if row.policy == "plain").achieved
    with_draft = [row for row in rows if row.policy != "plain"]
    if not with_draft:
        return f"Plain decoding gives {plain:,.1f} tokens/s. No draft was tried."
    best = max(with_draft, key=lambda row: row.achieved)
    gain = best.achieved / plain
    if gain < _LEAST_GAIN and is_best_tried:
        return f"A draft is not worth it here: plain decoding gives {plain:,.1f} tokens/s."
    number = f"{best.num_draft_tokens:g} draft token{'' if best.num_draft_tokens == 1 else 's'}"
    number += " on average" if best.policy == "auto" else ""
    give = "gives" if best.num_draft_tokens == 1 else "give"
    told = f"{number} {give} {gain:.2f} times the {plain:,.1f} tokens/s of plain decoding."
    if gain < _LEAST_GAIN:
        return f"{told} The best number of draft tokens was not looked for."
    return f"A draft is worth it here: {told}"


def assumed_line(scenario: Scenario) -> str:
    """Say what a scenario takes for granted beside what decodes cost."""
    accepted = ", then ".join(f"{rate:g}" for rate in scenario.acceptance)
    trips = " and ".join(f"{ms:g}" for ms in sorted({*scenario.round_trips_ms}))
    streams = f"{scenario.num_streams} stream{'' if scenario.num_streams == 1 else 's'}"
    return (
        f"Assumed: {streams}; {accepted} of the draft tokens accepted, each after accepted ones; round trips of "
        f"{trips} ms to the draft and {scenario.target_round_trip_ms:g} ms to the target. "
        f"At most {scenario.most} draft tokens are tried."
    )


def costs_lines(files: Mapping[str, Costs]) -> Iterator[str]:
    """Say why costs may not be what they are on an idle machine; the files by their names."""
    for name, costs in files.items():
        busy = costs.settings.get("busy_elsewhere", 0.0)
        if isinstance(busy, float) and busy > _MOST_BUSY_ELSEWHERE:
            yield f"{name}: other programs kept {busy:.1f} cores busy while it was measured: do not rely on it."
        points = [point for model in (costs.target, costs.draft) if model for point in model.points]
        if once := sum(point.num_times == 1 for point in points):
            yield f"{name}: {once} of {len(points)} points were timed only once: do not rely on them."


def streams_lines(scenario: Scenario) -> Iterator[str]:
    """Say where costs of more sessions are needed than were measured."""
    for name, costs in (("target", scenario.target), ("draft", scenario.draft)):
        if not isinstance(costs, ModelCosts):
            continue
        most = max(point.num_sessions for point in costs.points)
        if most < min(scenario.num_streams, scenario.max_sessions or scenario.num_streams):
            yield (
                f"Decodes of the {name} were measured with {most} session{'' if most == 1 else 's'} at most: what "
                f"{scenario.num_streams} streams give is a guess."
            )


def parts_table(parts: Sequence[Parts], titles: Sequence[str]) -> Table:
    """Return where the time of real cycles went."""
    table = _table(
        ("scenario",),
        ("draft", "cycle", "decodes", "services", "round trips", "orchestrator"),
        "draft: tokens a cycle; the rest is ms of a cycle of one stream, in real time with real gRPC on this machine; "
        "services: what these take beside the decodes",
    )
    for each, title in zip(parts, titles, strict=True):
        times = each.cycle_ms, each.models_ms, each.services_ms, each.round_trips_ms, each.orchestrator_ms
        table.add_row(title, str(each.num_draft_tokens), *(f"{ms:.2f}" for ms in times))
    return table


def seen_lines(seen: Seen, again: Row) -> Iterator[str]:
    """Say what traces have shown, and how well the simulation of it agrees."""
    scenario = seen.scenario
    yield (
        f"Seen in {seen.num_cycles} cycles: {seen.tokens_per_s:,.1f} tokens/s of {scenario.num_streams} streams with "
        f"{seen.num_draft_tokens} draft tokens; round trips of {scenario.round_trips_ms[0]:.2f} ms to the draft and "
        f"{scenario.target_round_trip_ms:.2f} ms to the target, {scenario.orchestrator_ms:.2f} ms of the orchestrator."
    )
    if seen.accepted_by_position:
        shares = ", ".join(f"{share:.2f}" for share in seen.accepted_by_position)
        yield f"Accepted by position in the draft: {shares}; {scenario.acceptance[0]:.3f} in all."
    else:
        yield "No drafts were seen, so nothing is known of how many would be accepted and of what they take."
    if seen.num_looked_up:
        yield f"{seen.num_looked_up} cycles had a draft from a text of the request, which is not simulated."
    error = again.achieved / seen.tokens_per_s - 1
    yield f"Simulated again: {again.achieved:,.1f} tokens/s, {100 * error:+.1f} % of what was seen."
