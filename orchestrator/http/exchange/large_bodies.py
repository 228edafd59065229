"""Large bodies are read in a process of their own, so that the streams of others go on.

A thread would not do: pydantic-core (2.14) parses and validates in one call each, which keeps the interpreter for as
long as it lasts. 16 MiB of token ids are half a second.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from typing import TypeAlias

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from orchestrator.http.exchange.errors import validation_error
from services.frame.rpc.errors import invalid_argument

# Bytes of a body that are read where the streams are: of token ids a hundredth of a second of work, of short messages
# three.
LARGE = 512 * 1024
# Reason, field and sentence; without a reason the body is no JSON, as the sentence says.
_Refusal: TypeAlias = tuple[str, str, str]


async def read_large(body: bytes, kind: type[BaseModel]) -> BaseModel:
    """Return the fields that a body has. Raises ServiceError for wrong ones, ValueError for what is no JSON."""
    try:
        read = await asyncio.get_running_loop().run_in_executor(_readers(), _read, body, kind)
    except (BrokenProcessPool, OSError, ImportError, NotImplementedError):
        # It was killed, or cannot be started here: the next one gets another, this one is read in any case.
        _readers.cache_clear()
        read = _read(body, kind)
    if isinstance(read, BaseModel):
        return read
    reason, field, sentence = read
    raise invalid_argument(reason, field, sentence) if reason else ValueError(sentence)


def parse(body: bytes) -> object:
    """Return what a body says: no NaN, no lone surrogates, no nesting that would end the process. Raises ValueError."""
    return from_json(body, allow_inf_nan=False)


@cache
def _readers() -> Executor:
    """Return the process, which the first body starts. It reads one after the other, so that they take one core."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)


def _begin() -> None:
    """Leave Ctrl-C to the orchestrator, and end with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a child"
    parent.join()
    os._exit(0)


def _read(body: bytes, kind: type[BaseModel]) -> BaseModel | _Refusal:
    parsed = None
    try:
        parsed = parse(body)
        return kind.model_validate(parsed)
    except ValidationError as error:
        refusal = validation_error(RequestValidationError(error.errors(include_url=False), body=parsed))
        (violation,) = refusal.field_violations
        return refusal.reason, violation.field, refusal.message
    except ValueError as error:
        return "", "", str(error)
