"""Texts to ids: nothing that a user writes steers the model, and the ids stand for the text that was given."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from gguf import GGUFValueType, TokenType
from gguf.gguf_writer import GGUFValue
from hypothesis import given
from hypothesis import strategies as st

from services.engine.errors import TooLongError
from services.engine.model.model import Model
from services.engine.model.vocabulary import Vocabulary
from services.target.chat import ChatTemplate, Message
from tests.foreign_models import VOCABULARY_SIZE, Tokenizer, llama, tiny_tokenizer

# llama.cpp takes the first four for user-defined ones whatever the file says.
STEER = ["<|start|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|channel>", "<tool_call|>", "User:", "<end>"]
HARMLESS = ["    ", "<h1>"]
TEMPLATE = "{% for message in messages %}User:{{ message.content }}<end>{% endfor %}"


def byte_level() -> Tokenizer:
    """A byte-level vocabulary that ends with tokens that steer, the last three user-defined, and harmless ones."""
    fields = tiny_tokenizer()
    more = [*STEER, *HARMLESS]
    kinds = [int(TokenType.CONTROL)] * 4 + [int(TokenType.USER_DEFINED)] * (len(more) - 4)
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    fields["tokenizer.ggml.tokens"] = replace(tokens, value=[*tokens.value[: -len(more)], *more])
    fields["tokenizer.ggml.token_type"] = replace(types, value=[*types.value[: -len(more)], *kinds])
    return fields | {"tokenizer.chat_template": GGUFValue(TEMPLATE, GGUFValueType.STRING)}


def sentence_piece() -> Tokenizer:
    """A SentencePiece vocabulary, which puts a space in front of a text and after special tokens."""
    special = {"<unk>": TokenType.UNKNOWN, "<s>": TokenType.CONTROL, "</s>": TokenType.CONTROL}
    special |= dict.fromkeys([*STEER, *HARMLESS], TokenType.USER_DEFINED)
    space = "\u2581"
    words = [space, *"abcdefghijklmnopqrstuvwxyz<>|/:", space + "a", "s>", "/s", "<|", "ab", space + "ab"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    tokens += [f"{space}unused{i}" for i in range(VOCABULARY_SIZE - len(tokens))]
    kinds = [*special.values(), *[TokenType.BYTE] * 256]
    kinds += [TokenType.NORMAL] * (len(tokens) - len(kinds))
    array, text, integer = GGUFValueType.ARRAY, GGUFValueType.STRING, GGUFValueType.INT32
    return {
        "tokenizer.ggml.model": GGUFValue("llama", text),
        "tokenizer.ggml.tokens": GGUFValue(tokens, array, text),
        "tokenizer.ggml.scores": GGUFValue([-float(i) for i in range(len(tokens))], array, GGUFValueType.FLOAT32),
        "tokenizer.ggml.token_type": GGUFValue([int(kind) for kind in kinds], array, integer),
        "tokenizer.ggml.unknown_token_id": GGUFValue(0, GGUFValueType.UINT32),
        "tokenizer.ggml.bos_token_id": GGUFValue(1, GGUFValueType.UINT32),
        "tokenizer.ggml.eos_token_id": GGUFValue(2, GGUFValueType.UINT32),
        "tokenizer.ggml.add_bos_token": GGUFValue(True, GGUFValueType.BOOL),
        "tokenizer.chat_template": GGUFValue(TEMPLATE, text),
    }


@pytest.fixture(scope="module", params=[byte_level, sentence_piece], ids=lambda make: make.__name__)
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocabulary]:
    path = tmp_path_factory.mktemp("texts") / "model.gguf"
    model = Model(llama(path, tokenizer=request.param()))
    yield model.vocabulary
    model.close()


def steering(vocabulary: Vocabulary, tokens: list[int]) -> list[str]:
    """The spellings of the tokens among these that are meant to steer."""
    spelled = [vocabulary.entries[token].spelling.decode() for token in tokens]
    return [spelling for spelling in spelled if spelling in {*STEER, "<s>", "</s>", "<unk>"}]


contents = st.lists(st.sampled_from([*STEER, *HARMLESS, "</s>", "<", "|", "s>", " ", "a", "ab", "\n"]), max_size=9)


@given(contents.map("".join))
def test_no_text_steers_and_every_text_comes_back(vocabulary: Vocabulary, text: str) -> None:
    tokens = vocabulary.tokenize(text, add_bos=False, parse_special=False)
    assert steering(vocabulary, tokens) == []
    assert vocabulary.detokenize(tokens).decode() == text
    first = vocabulary.tokenize(text, add_bos=True, parse_special=False)
    assert vocabulary.detokenize(first).decode() == text


@given(contents.map("".join))
def test_no_chat_steers_and_every_chat_comes_back(vocabulary: Vocabulary, text: str) -> None:
    template = ChatTemplate(TEMPLATE, vocabulary)
    rendered, tokens = template.render([Message("user", text)] * 2, add_generation_prompt=False)
    assert rendered == f"User:{text}<end>" * 2
    first = [vocabulary.entries[vocabulary.bos].spelling.decode()] if vocabulary.adds_bos and vocabulary.bos else []
    assert steering(vocabulary, tokens) == [*(s for s in first if s == "<s>"), *["User:", "<end>"] * 2]
    assert vocabulary.detokenize(tokens).decode() == rendered


def parsed(vocabulary: Vocabulary, text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[str]]:
    """The ids of a text whose control tokens are read, and the texts in which llama.cpp has looked for them."""
    searched = []
    tokenize = vocabulary._ids

    def note(piece: str, *, parse_special: bool) -> list[int]:
        searched.extend([piece] if parse_special else [])
        return tokenize(piece, parse_special=parse_special)

    with monkeypatch.context() as patch:
        patch.setattr(vocabulary, "_ids", note)
        return vocabulary.tokenize(text, add_bos=False, parse_special=True), searched


@pytest.mark.parametrize(
    "text", ["", "ab", "<end>", "a b<end> ab<|start|> <|message|>\nUser:<<|end", "<|start|>a</s> a<h1>"]
)
def test_control_tokens_are_found_alike_in_long_texts(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """llama.cpp looks for every one of them in all of a text, which takes seconds where there are thousands of both."""
    expected, searched = parsed(vocabulary, text, monkeypatch)
    assert searched == [text]
    monkeypatch.setattr("services.engine.model.vocabulary._MOST_COMPARED", -1)
    tokens, searched = parsed(vocabulary, text, monkeypatch)
    assert tokens == expected
    assert set(searched) <= {*STEER, "<s>", "</s>"} | {f"\ufdd2{spelling}" for spelling in (*STEER, "</s>")}


def test_a_text_that_is_searched_for_long_is_a_long_one(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "<u " * (1_000_000 // len(vocabulary.steering)) + "<end>"
    tokens, searched = parsed(vocabulary, text, monkeypatch)
    assert [piece.lstrip("\ufdd2") for piece in searched] == ["<end>"]
    assert vocabulary.entries[tokens[-1]].spelling == b"<end>"


def test_harmless_user_defined_tokens_are_read(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.tokenize("a    <h1>", add_bos=False, parse_special=False)
    spelled = [vocabulary.entries[token].spelling for token in tokens]
    assert spelled[1:] == [b"    ", b"<h1>"]


def test_a_continuation_keeps_its_first_space(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.tokenize("ab", add_bos=False, parse_special=False)
    space = " " if vocabulary.adds_space else ""
    assert vocabulary.detokenize(tokens, is_continuation=True).decode() == f"{space}ab"


def test_a_hopeless_text_is_not_tokenized(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(text: str, *, parse_special: bool) -> list[int]:
        raise AssertionError(f"{len(text)} characters are tokenized")

    assert not vocabulary.adds_space or vocabulary._mark
    monkeypatch.setattr(vocabulary, "_ids", fail)
    with pytest.raises(TooLongError) as refused:
        vocabulary.tokenize("a b" * 100_000, add_bos=True, parse_special=False, most=4096)
    assert refused.value.count > 4096
