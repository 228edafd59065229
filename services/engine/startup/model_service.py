"""ModelService: what a draft or target service serves."""

import hashlib
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from outrider.v1 import common_pb2, model_pb2, model_pb2_grpc
from services.engine.errors import ModelLoadError
from services.engine.model.model import Model
from services.engine.model.vocabulary import Entry
from services.engine.runtime.memory import cache_bytes
from services.engine.runtime.padding import ExactMode, Exactness
from services.engine.runtime.runtime import RuntimeOptions
from services.engine.sampling import SAMPLER_VERSION
from services.engine.scheduling.engine import Engine
from services.frame.program.settings import DEFAULT_MAX_MESSAGE_BYTES
from services.frame.rpc.handlers import RpcContext

# A part of so many takes milliseconds to make, and others are served between two parts.
_DEFAULT_ENTRIES = 2048
_MAX_ENTRIES = 4096
# Of a model file at a time.
_DIGESTED_BYTES = 4 << 20
_MOST_PART_BYTES = 256 * 1024
# Of the tag and the length of an entry.
_BESIDE_BYTES = 8
_LONG_BYTES = 1024


_EXACT_MODES = {
    ExactMode.ROW_MULTIPLE: common_pb2.EXACT_MODE_ROW_MULTIPLE,
    ExactMode.CONSTANT_ROWS: common_pb2.EXACT_MODE_CONSTANT_ROWS,
}


@dataclass(frozen=True)
class LoadedModel:
    """A model and how it is run; the SHA-256 of its files; and where it is: device, and layers on the GPU."""

    model: Model
    options: RuntimeOptions
    file_digest: str
    placement: str

    @property
    def identity(self) -> str:
        """What decides the logits' bits, but for the exact mode: files, build, CPU features, threads, device."""
        features = llama_cpp.llama_print_system_info().decode()
        threads = self.options.threads()
        return (
            f"{self.file_digest} llama-cpp-python {llama_cpp.__version__} {features} {threads} threads {self.placement}"
        )


def describe(
    loaded: LoadedModel, exactness: Exactness | None, device: str, max_draft_tokens: int
) -> common_pb2.ModelInfo:
    """Return the description of a model as it is run. Equal numerics say the same text."""
    model, options = loaded.model, loaded.options
    suppressed, ends = sorted(model.vocabulary.suppressed), sorted(model.vocabulary.end_of_generation)
    # States go on from other lengths where there are snapshots.
    ways = (options.flash_attention, options.num_snapshots > 0)
    numerics = (loaded.identity, exactness, *ways, SAMPLER_VERSION, suppressed, ends)
    return common_pb2.ModelInfo(
        name=model.name,
        architecture=model.architecture,
        num_parameters=model.num_parameters,
        context_length=options.context_length,
        vocabulary_size=model.vocabulary.size,
        tokenizer_fingerprint=model.vocabulary.fingerprint,
        quantization=model.quantization,
        device=device,
        num_slots=options.num_slots,
        exact_mode=_EXACT_MODES[exactness.mode] if exactness else common_pb2.EXACT_MODE_OFF,
        exact_width=exactness.width if exactness else 0,
        numerics_fingerprint=hashlib.sha256(repr(numerics).encode()).hexdigest(),
        max_draft_tokens=max_draft_tokens,
        sampler_version=SAMPLER_VERSION,
        bos_token=model.vocabulary.bos if model.vocabulary.adds_bos else None,
        end_of_generation_tokens=ends,
        suppressed_tokens=suppressed,
        has_chat_template=bool(model.metadata("tokenizer.chat_template")),
        model_bytes=model.num_bytes,
        cache_bytes=cache_bytes(model, options),
        uses_flash_attention=options.flash_attention,
    )


def digest_of_files(paths: Sequence[Path], given_up: threading.Event | None = None) -> str:
    """Return the SHA-256 of all files, one after the other, in hexadecimal.

    Raises ModelLoadError where one cannot be read, and once `given_up` is set: the files of a large model take most of
    a minute.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb", buffering=0) as file:
                while part := file.read(_DIGESTED_BYTES):
                    digest.update(part)
                    if given_up is not None and given_up.is_set():
                        raise ModelLoadError(f"{path} is not served: the service was stopped meanwhile")
        except OSError as error:
            raise ModelLoadError(f"cannot read model {path}: {error.strerror}") from error
    return digest.hexdigest()


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Answers from what was read at start-up, and what the engine is at."""

    def __init__(
        self,
        model: Model,
        engine: Engine,
        info: common_pb2.ModelInfo,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        self._engine = engine
        self._entries = model.vocabulary.entries
        self._info = info
        self._most_bytes = min(max_message_bytes // 2, _MOST_PART_BYTES)

    async def GetModel(self, request: model_pb2.GetModelRequest, context: RpcContext) -> model_pb2.GetModelResponse:
        """Return the description and the load."""
        load = model_pb2.ModelLoad(
            num_waiting=self._engine.num_waiting,
            num_active=self._engine.num_active,
            num_held_tokens=self._engine.num_held_tokens,
        )
        return model_pb2.GetModelResponse(model=self._info, load=load)

    async def GetTokenTable(
        self, request: model_pb2.GetTokenTableRequest, context: RpcContext
    ) -> AsyncIterator[model_pb2.GetTokenTableResponse]:
        """Stream the vocabulary, ids ascending."""
        num_entries = min(request.max_entries or _DEFAULT_ENTRIES, _MAX_ENTRIES)
        first = 0
        while first < len(self._entries):
            part = _part(self._entries[first : first + num_entries], self._most_bytes)
            yield model_pb2.GetTokenTableResponse(
                tokenizer_fingerprint=self._info.tokenizer_fingerprint,
                vocabulary_size=self._info.vocabulary_size,
                first_token=first,
                entries=part,
            )
            first += len(part)


def check_entries(model: Model, max_message_bytes: int) -> None:
    """Raise ModelLoadError for a token so long that no message holds it."""
    for token, entry in enumerate(model.vocabulary.entries):
        # It is not looked at closer unless it could be: there are hundreds of thousands.
        if len(entry.spelling) + len(entry.output) > _LONG_BYTES:
            num_bytes = _entry(entry).ByteSize()
            if num_bytes > max_message_bytes // 2:
                raise ModelLoadError(
                    f"cannot serve {model.path}: its token {token} takes {num_bytes} bytes: "
                    f"--max-message-bytes must be at least {2 * num_bytes}"
                )


def _part(entries: Sequence[Entry], most_bytes: int) -> list[common_pb2.TokenEntry]:
    """Return as many of the first entries as a part may have bytes, one at least."""
    part: list[common_pb2.TokenEntry] = []
    num_bytes = 0
    for entry in entries:
        message = _entry(entry)
        num_bytes += message.ByteSize() + _BESIDE_BYTES
        if part and num_bytes > most_bytes:
            break
        part.append(message)
    return part


def _entry(entry: Entry) -> common_pb2.TokenEntry:
    return common_pb2.TokenEntry(
        text=entry.spelling.decode(errors="replace"),
        output=entry.output,
        attribute=common_pb2.TokenAttribute.ValueType(entry.attribute),
        is_end_of_generation=entry.is_end_of_generation,
    )
