"""Vocabularies of all kinds and sizes pair with themselves, and chat templates of known models render.

The vocabularies and templates come with llama-cpp-python's source package: see `source_package.py`.
"""

import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import llama_cpp
import pytest
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue
from jinja2 import TemplateError

from models.tiny import tiny_vocabulary, write_tiny_model
from orchestrator.peers.pair import ServedModel, check_pair, fetch_model
from outrider.v1 import common_pb2, model_pb2, model_pb2_grpc
from services.engine.model.gguf_file import GgufFile
from services.engine.model.model import Model
from services.engine.model.vocabulary import Attribute, Vocabulary
from services.engine.startup.model_service import ModelServicer
from services.target.chat import ChatError, ChatTemplate
from services.target.messages import Message
from tests.foreign_models import llama, tiny_tokenizer
from tests.integration.services import client_of, draft_server, fixed, orchestrator_server, target_server
from tests.integration.source_package import needs_source

pytestmark = pytest.mark.integration

LARGE = 262_144
# What a gRPC client takes unless it is told otherwise.
USUAL_LIMIT = 4 * 1024 * 1024
# Logits of this vocabulary take a megabyte a row.
SETTINGS: dict[str, Any] = {"slots": 2, "context": 64, "batch_rows": 32, "prefill_rows": 32}


@pytest.mark.slow
async def test_a_large_vocabulary_pairs_with_itself(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    write_tiny_model(model, vocab_size=LARGE, dim=32, num_layers=1, is_tied=True, file_type="F16")
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(model, **SETTINGS))
        draft = await stack.enter_async_context(draft_server(model, **SETTINGS))
        stub = model_pb2_grpc.ModelServiceStub(
            await stack.enter_async_context(grpc.aio.insecure_channel(target.address))
        )
        served = await fetch_model(stub)
        assert [entry.text for entry in served.entries] == tiny_vocabulary(LARGE).tokens
        _check_that_entries_pair(served)
        await _check_that_parts_are_small(stub, max_entries=2**32 - 1)
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(orchestrator))
        await client.until_draft(is_available=True)
        generated = await client.generate(max_tokens=8, speculation=fixed(3))
    assert len(generated.tokens) == 8
    # The draft is the target.
    assert generated.counts.num_accepted_tokens == generated.counts.num_draft_tokens > 0


def _check_that_entries_pair(served: ServedModel) -> None:
    """As with a model whose fingerprint is another one, so that every entry is looked at."""
    other = common_pb2.ModelInfo()
    other.CopyFrom(served.info)
    other.tokenizer_fingerprint = "another"
    check_pair(served, replace(served, info=other))


async def _check_that_parts_are_small(stub: model_pb2_grpc.ModelServiceStub, max_entries: int) -> None:
    num_entries, sizes = 0, []
    async for part in stub.GetTokenTable(model_pb2.GetTokenTableRequest(max_entries=max_entries)):
        assert part.first_token == num_entries
        num_entries += len(part.entries)
        sizes.append(part.ByteSize())
    assert num_entries == LARGE
    assert max(sizes) < USUAL_LIMIT / 8


def test_text_gets_no_last_token(tmp_path: Path) -> None:
    """Some files want their tokenizer to end every text, which would end every generation before it begins."""
    ends = tiny_tokenizer() | {"tokenizer.ggml.add_eos_token": GGUFValue(True, GGUFValueType.BOOL)}
    vocabulary = Model(llama(tmp_path / "model.gguf", tokenizer=ends)).vocabulary
    plain = vocabulary.tokenize("a text", add_bos=False, parse_special=False)
    assert vocabulary.eos not in plain
    assert vocabulary.tokenize("a text", add_bos=True, parse_special=False) == [vocabulary.bos, *plain]


CHATS = {
    "user first": ["user", "assistant", "user"],
    "system first": ["system", "user", "assistant", "user"],
}
# Gemma 2 knows no system.
REFUSED = {("google-gemma-2-2b-it.jinja", "system first")}


@dataclass(frozen=True)
class Opened:
    """A vocabulary, and the model that it lives as long as."""

    vocabulary: Vocabulary
    handle: Any


def _open(path: Path) -> Opened:
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
    assert handle, path
    return Opened(Vocabulary(llama_cpp.llama_model_get_vocab(handle)), handle)


async def _served(vocabulary: Vocabulary) -> ServedModel:
    """What a client learns of a model with this vocabulary."""
    info = common_pb2.ModelInfo(
        vocabulary_size=vocabulary.size,
        tokenizer_fingerprint=vocabulary.fingerprint,
        bos_token=vocabulary.bos if vocabulary.adds_bos else None,
    )
    servicer = ModelServicer(cast(Any, SimpleNamespace(vocabulary=vocabulary)), cast(Any, None), info)
    parts = servicer.GetTokenTable(model_pb2.GetTokenTableRequest(), cast(Any, None))
    return ServedModel(info, [entry async for part in parts for entry in part.entries])


@needs_source
def test_every_vocabulary_passes_the_guard(source: Path, subtests: pytest.Subtests) -> None:
    for path in sorted(source.glob("ggml-vocab-*.gguf")):
        with subtests.test(path.name), GgufFile(path) as file:
            assert file.text("general.architecture")


@needs_source
async def test_every_vocabulary_pairs_with_itself(source: Path, subtests: pytest.Subtests) -> None:
    paths = sorted(source.glob("ggml-vocab-*.gguf"))
    assert len(paths) >= 19
    for path in paths:
        with subtests.test(path.name):
            first, second = _open(path), _open(path)
            target, draft = await _served(first.vocabulary), await _served(second.vocabulary)
            assert len(target.entries) == target.info.vocabulary_size > 0
            assert target.info.tokenizer_fingerprint == draft.info.tokenizer_fingerprint
            check_pair(target, draft)
            _check_that_entries_pair(target)
            for opened in (first, second):
                llama_cpp.llama_model_free(opened.handle)


@needs_source
def test_every_vocabulary_tokenizes_as_its_authors_say(source: Path, subtests: pytest.Subtests) -> None:
    paths = sorted(source.glob("ggml-vocab-*.gguf.inp"))
    assert len(paths) >= 14
    for path in paths:
        with subtests.test(path.name):
            opened = _open(path.with_suffix(""))
            vocabulary = opened.vocabulary
            is_lossless = llama_cpp.llama_vocab_type(vocabulary._handle) == llama_cpp.LLAMA_VOCAB_TYPE_BPE
            texts = path.read_bytes().decode().split("\n__ggml_vocab_test__\n")
            lines = path.with_suffix(".out").read_text().splitlines()
            for text, line in zip(texts, lines, strict=False):
                tokens = vocabulary.tokenize(text, add_bos=False, parse_special=False)
                assert tokens == [int(token) for token in line.split()], repr(text)
                if is_lossless:
                    assert vocabulary.detokenize(tokens) == text.encode()
            llama_cpp.llama_model_free(opened.handle)


@needs_source
def test_no_spelling_in_a_chat_becomes_a_control_token(source: Path, subtests: pytest.Subtests) -> None:
    for path in sorted(source.glob("ggml-vocab-*.gguf")):
        with subtests.test(path.name):
            opened = _open(path)
            vocabulary = opened.vocabulary
            control = {
                token: entry.spelling.decode()
                for token, entry in enumerate(vocabulary.entries)
                if entry.attribute in (Attribute.CONTROL, Attribute.UNKNOWN)
            }
            content = "".join(list(control.values())[:50])
            template = ChatTemplate("{{ messages[0].content }}", vocabulary)
            text, tokens = template.render([Message("user", content)], add_generation_prompt=False)
            assert text == content
            first = [vocabulary.bos] if vocabulary.adds_bos else []
            assert tokens[: len(first)] == first
            assert not control.keys() & set(tokens[len(first) :])
            llama_cpp.llama_model_free(opened.handle)


@needs_source
def test_every_chat_template_renders(source: Path, subtests: pytest.Subtests, tmp_path: Path) -> None:
    vocabulary = Model(llama(tmp_path / "model.gguf")).vocabulary
    paths = sorted(source.glob("templates/*.jinja"))
    assert len(paths) >= 40
    for path in paths:
        with subtests.test(path.name):
            template = ChatTemplate(path.read_text(), vocabulary)
            for name, roles in CHATS.items():
                messages = [Message(role, f"It is the {role} who says {name}.") for role in roles]
                try:
                    text, tokens = template.render(messages, add_generation_prompt=True)
                except ChatError as error:
                    assert (path.name, name) in REFUSED
                    # What the template itself raises, not what it fails at.
                    assert type(error.__cause__) is TemplateError
                    assert len(str(error).splitlines()) == 1
                    continue
                assert messages[-1].content in text
                assert tokens
