"""What type an argument of a tool has that a model wrote as plain text, by the schema of the tool."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from orchestrator.generation.json_scanner import loads

Schema: TypeAlias = Mapping[str, Any]

_UNIONS = ("anyOf", "oneOf", "allOf")
_TYPES: dict[type, tuple[str, ...]] = {
    dict: ("object",),
    list: ("array",),
    str: ("string",),
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    type(None): ("null",),
}
# As templates write them that know no JSON.
_PYTHON = {"True": "true", "False": "false", "None": "null"}


class ArgumentTypes:
    """The arguments of one tool."""

    def __init__(self, schema: Schema) -> None:
        """Take a JSON schema of the arguments; what is not understood of it makes nothing worse than unknown."""
        properties = schema.get("properties")
        self._properties = properties if isinstance(properties, Mapping) else {}

    def is_text(self, name: str) -> bool:
        """Whether an argument is a text whatever it looks like. One that the schema does not know is."""
        return name not in self._properties or _types(self._properties[name]) == {"string"}

    def to_json(self, name: str, text: str) -> str:
        """Return an argument as JSON: as the value that `text` spells, if the schema allows that, else as a text."""
        types = None if self.is_text(name) else _types(self._properties[name])
        spelled = _PYTHON.get(text.strip(), text.strip())
        if not self.is_text(name) and (types is None or types.intersection(_spelled_types(spelled))):
            return spelled
        return json.dumps(text, ensure_ascii=False)


def _spelled_types(text: str) -> Iterable[str]:
    try:
        return _TYPES[type(loads(text))]
    except ValueError:
        return ()


def _types(schema: object) -> set[str] | None:
    """Return the names of the types that a value may have; None where that is not known."""
    if not isinstance(schema, Mapping):
        return None
    if isinstance(schema.get("enum"), list):
        return {name for value in schema["enum"] for name in _TYPES.get(type(value), ())}
    match schema.get("type"):
        case str(name):
            return {name, "integer"} if name == "number" else {name}
        case [*names] if all(isinstance(name, str) for name in names):
            return set(names)
    members = next((schema[union] for union in _UNIONS if isinstance(schema.get(union), list)), None)
    if members is None:
        return None
    types = [_types(member) for member in members]
    return None if None in types else set().union(*(each for each in types if each is not None))
