"""`outrider simulate`: the options; what they mean is in `simulating`."""

from typing import Annotated

import typer

from orchestrator.cli.options import refuse_empty
from services.frame.program.startup import StartupError

_POLICIES = ("plain", "fixed", "auto")


def _refuse_unknown(policy: str | None) -> str | None:
    if policy is not None and policy not in _POLICIES:
        *others, last = _POLICIES
        raise StartupError(f"--policy is {policy!r}, which is none: there are {', '.join(others)} and {last}")
    return policy


def simulate(
    scenario: Annotated[
        list[int] | None,
        typer.Option(min=1, max=10, help="number of a scenario of the table, once or several times; all if absent"),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(_POLICIES),
            callback=_refuse_unknown,
            help="who says how many tokens are drafted; all three, one after the other, if absent",
        ),
    ] = None,
    num_draft_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="draft tokens of a cycle where the policy is fixed; the best number if absent"
        ),
    ] = None,
    costs: Annotated[
        str | None,
        typer.Option(metavar="FILE", callback=refuse_empty, help="what decodes cost, as `outrider costs` measured it"),
    ] = None,
    traces: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            callback=refuse_empty,
            help="spans of real services as OTLP JSON: what was seen there is simulated, and then what --what changes",
        ),
    ] = None,
    what: Annotated[
        str,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="what to change: draft (ms a token, or a file of costs), target (a file of costs), streams, "
            "round_trip_ms, acceptance, num_draft_tokens",
        ),
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="of what target and draft say")] = 0,
    real: Annotated[
        bool, typer.Option("--real", help="take real time and real gRPC on this machine: what do they add to a cycle?")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="print one line of JSON, a list with an object for each row")
    ] = False,
) -> None:
    """Tell what drafts are worth: the real cycle and scheduling in virtual time, beside the best that there can be.

    A minute of serving takes a second, and comes out the same to the last digit. Without options it is a table of ten
    scenarios. For a machine of your own: `outrider costs --out FILE`, then `outrider simulate --costs FILE`.
    """
    from orchestrator.cli import simulating  # noqa: PLC0415  the engine's scheduling, which no other command waits for

    simulating.simulate(
        simulating.Asked(
            numbers=scenario or [],
            policies=[policy] if policy else list(_POLICIES),
            num_draft_tokens=num_draft_tokens,
            costs=costs,
            traces=traces,
            what=what,
            seed=seed,
            is_real=real,
            is_json=as_json,
        )
    )
