"""The bodies of requests: JSON without its loopholes, and fields of which none is ignored in silence."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError, from_json
from starlette.exceptions import HTTPException


class Fields(BaseModel):
    """Fields of a request: a name that is not known is refused, and so is a number in the place of a text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def _refuse_unless_null(value: object) -> None:
    if value is not None and value != []:
        raise PydanticCustomError("unsupported", "is not supported")


Unsupported = Annotated[None, BeforeValidator(_refuse_unless_null)]
"""A field that is refused by its name unless it is null or an empty list, as clients write what is absent."""


class JsonRequest(Request):
    """A request whose body is read without NaN, lone surrogates or nesting that would end the process."""

    async def json(self) -> Any:
        """Return what the body says. Raises HTTPException."""
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise HTTPException(400, f"the body is no JSON: {error}") from error


class JsonRoute(APIRoute):
    """Reads its requests as `JsonRequest` does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def read_and_answer(request: Request) -> Response:
            return await answer(JsonRequest(request.scope, request.receive))

        return read_and_answer
