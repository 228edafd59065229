"""Options that several commands have alike, declared once as the fields of a dataclass."""

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, for each parameter that is a dataclass, the fields of that as options.

    typer sees the fields where the parameter stands; the command gets them as one object.
    """
    signature = inspect.signature(command)
    annotations = {name: each.annotation for name, each in signature.parameters.items()}
    groups = {name: kind for name, kind in annotations.items() if isinstance(kind, type) and is_dataclass(kind)}
    fields = {name: inspect.signature(group).parameters for name, group in groups.items()}

    def run(**given: Any) -> None:
        made = {name: group(**{field: given.pop(field) for field in fields[name]}) for name, group in groups.items()}
        command(**given, **made)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, each in signature.parameters.items()
        for parameter in (fields[name].values() if name in fields else [each])
    ]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    # typer asks for both.
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
