"""What the API is, for programs at /openapi.json and for people at /docs, without a request to anybody else."""

import asyncio
from typing import Any

from fastapi import FastAPI
from jinja2 import Environment
from starlette.responses import HTMLResponse, JSONResponse

_ERRORS = {
    "400": "the request cannot be served; `param` names the field",
    "401": "no key, or one that is not known",
    "403": "the Host that was asked for is none of this server's",
    "404": "no such path, or no such model",
    "405": "no such method",
    "408": "the answer was not read",
    "413": "the body is larger than --max-message-bytes",
    "429": "too many requests wait; Retry-After says when to come again",
    "500": "a defect; the log of the orchestrator tells more",
    "503": "the orchestrator starts, stops, or waits for its target; Retry-After says when to come again",
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ info.title }}</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 0 auto; padding: 1rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .2rem .6rem }
tr { border-top: 1px solid #8884 } code { font-size: .95em } h2 { margin-top: 2.5rem }
</style>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>{{ info.description }} The same for programs: <a href="openapi.json">openapi.json</a>.</p>
{% for path, methods in paths.items() %}{% for method, operation in methods.items() %}
<h2><code>{{ method | upper }} {{ path }}</code></h2>
<p>{{ operation.summary }}{% if operation.description %}. {{ operation.description }}{% endif %}</p>
{% for field in operation.fields %}{% if loop.first %}<table><tr><th>field<th>type<th>meaning</tr>{% endif %}
<tr><td><code>{{ field.name }}</code>{% if field.is_required %} (needed){% endif %}
<td>{{ field.kind }}<td>{{ field.description }}</tr>
{% if loop.last %}</table>{% endif %}{% endfor %}
{% endfor %}{% endfor %}
"""


def describe(app: FastAPI) -> None:
    """Let an application tell what it is, with the statuses that every path can answer."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_errors(made())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as its documentation says

    # It is made when somebody first asks for it, which takes as long as many cycles: not on the loop that serves them.
    @app.get("/openapi.json", include_in_schema=False)
    async def for_programs() -> JSONResponse:
        return JSONResponse(await asyncio.to_thread(app.openapi))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_render(await asyncio.to_thread(app.openapi)))


def _with_errors(schema: dict[str, Any]) -> dict[str, Any]:
    answers = {
        status: {"description": meaning, "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
        for status, meaning in _ERRORS.items()
    }
    for methods in schema["paths"].values():
        for operation in methods.values():
            # The framework's own form of what is 400 here.
            operation["responses"].pop("422", None)
            operation["responses"] |= answers
    for name in ("HTTPValidationError", "ValidationError"):
        schema.get("components", {}).get("schemas", {}).pop(name, None)
    return schema


def _render(schema: dict[str, Any]) -> str:
    template = Environment(autoescape=True).from_string(_PAGE)
    paths = {
        path: {method: operation | {"fields": _fields(schema, operation)} for method, operation in methods.items()}
        for path, methods in schema["paths"].items()
    }
    return template.render(info=schema["info"], paths=paths)


def _fields(schema: dict[str, Any], operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the fields of an operation's request."""
    if "requestBody" not in operation:
        return []
    body = _resolved(schema, operation["requestBody"]["content"]["application/json"]["schema"])
    needed = body.get("required", [])
    return [
        {
            "name": name,
            "is_required": name in needed,
            "kind": _kind(field),
            "description": field.get("description", ""),
        }
        for name, field in body.get("properties", {}).items()
    ]


def _kind(field: dict[str, Any]) -> str:
    """Return the type of a field in a few words."""
    if choices := field.get("anyOf", field.get("oneOf")):
        return " or ".join(kind for each in choices if (kind := _kind(each)) != "null")
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    return str(field.get("type", "any"))


def _resolved(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    found: dict[str, Any] = schema["components"]["schemas"][part["$ref"].rpartition("/")[2]]
    return found
