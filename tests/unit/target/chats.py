"""A tokenizer with the control tokens of a chat, and spellings that are hard to tell apart."""

from dataclasses import replace
from typing import Any

from gguf import GGUFValueType, TokenType
from gguf.gguf_writer import GGUFValue

from tests.foreign_models import Tokenizer, tiny_tokenizer

BEGIN, END, USER, ASSISTANT = "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"
# Spellings that hold, begin or overlap with others, and one that is not ASCII.
AWKWARD = ["<<|end|>", "<|end|>|>", "|><|", "é~", "[INST]"]
UNKNOWN = "<unk>"


def tokenizer(**fields: Any) -> Tokenizer:
    """The tiny tokenizer with more control tokens in place of its last tokens."""
    changed = tiny_tokenizer()
    control = [USER, ASSISTANT, *AWKWARD, UNKNOWN]
    tokens, types = (changed[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
    kinds = [*[int(TokenType.CONTROL)] * (len(control) - 1), int(TokenType.UNKNOWN)]
    changed["tokenizer.ggml.tokens"] = replace(tokens, value=[*tokens.value[: -len(control)], *control])
    changed["tokenizer.ggml.token_type"] = replace(types, value=[*types.value[: -len(control)], *kinds])
    kinds_of = {bool: GGUFValueType.BOOL, str: GGUFValueType.STRING}
    return changed | {f"tokenizer.{name}": GGUFValue(value, kinds_of[type(value)]) for name, value in fields.items()}
