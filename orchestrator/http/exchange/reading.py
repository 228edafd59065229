"""The bodies of requests: JSON without its loopholes, and fields of which none is ignored in silence."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeAlias, TypeVar, cast

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException

from orchestrator.http.exchange import large_bodies
from services.frame.rpc.errors import ServiceError

ItemT = TypeVar("ItemT")
# No object that is served has more fields, no list is longer, but for those of token ids.
_MOST_FIELDS = 100
_MOST_ITEMS = 1 << 14
_MOST_TOKENS = 1 << 20


def _refuse_large(value: Any) -> Any:
    """Refuse an object with so many fields that telling of each would take seconds."""
    if isinstance(value, dict) and len(value) > _MOST_FIELDS:
        raise PydanticCustomError("too_many_fields", "there are more fields than any object here has")
    return value


class Fields(BaseModel):
    """Fields of a request: a name that is not known is refused, and so is a number in the place of a text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    _ = model_validator(mode="before")(_refuse_large)


Many: TypeAlias = Annotated[list[ItemT], Field(max_length=_MOST_ITEMS, fail_fast=True)]
"""A list of which the first item that is wrong is told."""

Uint32: TypeAlias = Annotated[int, Field(ge=0, le=2**32 - 1)]
TokenIds: TypeAlias = Annotated[list[Uint32], Field(max_length=_MOST_TOKENS, fail_fast=True)]


def _refuse_unless_null(value: object) -> None:
    if value is not None and value != []:
        raise PydanticCustomError("unsupported", "is not supported")


Unsupported = Annotated[None, BeforeValidator(_refuse_unless_null)]
"""A field that is refused by its name unless it is null or an empty list, as clients write what is absent."""


class JsonRequest(Request):
    """A request whose body is read without NaN, lone surrogates or nesting that would end the process.

    A large one is also validated as `kind` where it is read.
    """

    kind: type[BaseModel]

    async def json(self) -> Any:
        """Return what the body says. Raises HTTPException, whose cause is a ServiceError where that is to be told."""
        body = await self.body()
        try:
            if len(body) > large_bodies.LARGE:
                return await large_bodies.read_large(body, self.kind)
            return large_bodies.parse(body)
        except ServiceError as error:
            # Of others the framework makes a sentence of its own.
            raise HTTPException(400) from error
        except ValueError as error:
            raise HTTPException(400, f"the body is no JSON: {error}") from error


class JsonRoute(APIRoute):
    """Reads its requests as `JsonRequest` does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()
        (body,) = self.dependant.body_params
        kind = cast(type[BaseModel], body.field_info.annotation)

        async def read_and_answer(request: Request) -> Response:
            asked = JsonRequest(request.scope, request.receive)
            asked.kind = kind
            return await answer(asked)

        return read_and_answer


def at_most(num: int) -> BeforeValidator:
    """Return a check that an object has at most so many members, before each of them is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > num:
            raise PydanticCustomError("too_long", f"it has more than {num} members")
        return value

    return BeforeValidator(check)
