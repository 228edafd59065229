"""ModelService: what a draft or target service serves."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import llama_cpp

from outrider.v1 import common_pb2, model_pb2, model_pb2_grpc
from services.engine.model import Model
from services.engine.sampling import SAMPLER_VERSION
from services.engine.settings import EngineSettings
from services.engine.vocabulary import Entry
from services.frame.handlers import RpcContext

_DEFAULT_ENTRIES = 8192
_MAX_ENTRIES = 16384


def describe(model: Model, settings: EngineSettings, context_length: int) -> common_pb2.ModelInfo:
    """Return the description of a loaded model as it is run."""
    return common_pb2.ModelInfo(
        name=model.name,
        architecture=model.architecture,
        num_parameters=model.num_parameters,
        context_length=context_length,
        vocabulary_size=model.vocabulary.size,
        tokenizer_fingerprint=model.vocabulary.fingerprint,
        quantization=model.quantization,
        device="CPU" if settings.gpu_layers == 0 else "GPU",
        num_slots=settings.slots,
        exact_mode=common_pb2.EXACT_MODE_OFF,
        numerics_fingerprint=numerics_fingerprint(model.path, settings),
        max_draft_tokens=settings.max_draft_tokens,
        sampler_version=SAMPLER_VERSION,
        bos_token=model.vocabulary.bos if model.vocabulary.adds_bos else None,
        end_of_generation_tokens=sorted(model.vocabulary.end_of_generation),
        has_chat_template=bool(model.metadata("tokenizer.chat_template")),
        model_bytes=model.num_bytes,
    )


def numerics_fingerprint(path: Path, settings: EngineSettings) -> str:
    """Return a digest of everything that decides the logits' bits: equal digests, equal logits."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(llama_cpp.llama_print_system_info())
    digest.update(f"{llama_cpp.__version__} {settings.threads} {settings.gpu_layers} {SAMPLER_VERSION}".encode())
    return digest.hexdigest()


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Answers from what was read at start-up."""

    def __init__(self, model: Model, info: common_pb2.ModelInfo) -> None:
        self._entries = model.vocabulary.entries
        self._info = info

    async def GetModel(self, request: model_pb2.GetModelRequest, context: RpcContext) -> model_pb2.GetModelResponse:
        """Return the description."""
        return model_pb2.GetModelResponse(model=self._info)

    async def GetTokenTable(
        self, request: model_pb2.GetTokenTableRequest, context: RpcContext
    ) -> AsyncIterator[model_pb2.GetTokenTableResponse]:
        """Stream the vocabulary, ids ascending."""
        num_entries = min(request.max_entries or _DEFAULT_ENTRIES, _MAX_ENTRIES)
        for first in range(0, len(self._entries), num_entries):
            yield model_pb2.GetTokenTableResponse(
                tokenizer_fingerprint=self._info.tokenizer_fingerprint,
                vocabulary_size=self._info.vocabulary_size,
                first_token=first,
                entries=[_entry(entry) for entry in self._entries[first : first + num_entries]],
            )


def _entry(entry: Entry) -> common_pb2.TokenEntry:
    return common_pb2.TokenEntry(
        text=entry.spelling.decode(errors="replace"),
        bytes=entry.output,
        attribute=common_pb2.TokenAttribute.ValueType(entry.attribute),
        is_end_of_generation=entry.is_end_of_generation,
    )
