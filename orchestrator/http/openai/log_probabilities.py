"""Log-probabilities in the two forms of OpenAI's API. Tokens are told by what they add to the text."""

from collections.abc import Sequence
from typing import Any

from orchestrator.peers.pair import ServedModel
from outrider.v1 import common_pb2, generation_pb2

# JSON has no infinity; vLLM writes this too.
_LEAST = -9999.0
Tokens = Sequence[generation_pb2.GeneratedToken]
AnyTokens = Sequence[generation_pb2.GeneratedToken | generation_pb2.PromptToken]


class TokenTexts:
    """The texts of a model's tokens. One that adds nothing to the text is told as it is spelled."""

    def __init__(self, model: ServedModel) -> None:
        self._bytes = model.token_bytes
        self._spellings = model.silent_spellings

    def bytes_of(self, token: int) -> bytes:
        """Return what a token stands for, perhaps a part of a character."""
        return self._bytes[token] or self._spellings.get(token, "").encode()

    def text(self, token: int) -> str:
        """Return a token as a text, U+FFFD in place of what is no whole character."""
        return self.bytes_of(token).decode(errors="replace")

    def name(self, token: int) -> str:
        """Return a text that is another one for each token: parts of characters are told by their bytes."""
        told = self.bytes_of(token)
        try:
            return told.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in told)


def chat_log_probabilities(tokens: Tokens, texts: TokenTexts) -> dict[str, Any]:
    """Return those of a chat's tokens, all that were generated: what is thought and what frames it have them too."""
    return {"content": [_of_chat(token.log_probabilities, texts) for token in tokens]}


def _of_chat(told: common_pb2.LogProbabilities, texts: TokenTexts) -> dict[str, Any]:
    return _one(told.chosen, texts) | {"top_logprobs": [_one(each, texts) for each in told.top]}


def _one(told: common_pb2.TokenLogProbability, texts: TokenTexts) -> dict[str, Any]:
    return {
        "token": texts.text(told.token),
        "logprob": max(told.log_probability, _LEAST),
        "bytes": list(texts.bytes_of(told.token)),
    }


class CompletionLogProbabilities:
    """Those of a completion's tokens, with the offset of each in its text, which goes on from chunk to chunk.

    The first token of a prompt has none.
    """

    def __init__(self, texts: TokenTexts, num_top: int) -> None:
        self._texts = texts
        self._num_top = num_top
        self._offset = 0

    def tell(self, tokens: AnyTokens) -> dict[str, Any]:
        """Return those of the next tokens."""
        told: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in tokens:
            chosen, top = token.log_probabilities.chosen, token.log_probabilities.top
            told["tokens"].append(self._texts.name(token.token))
            is_told = token.HasField("log_probabilities")
            named = {self._texts.name(each.token): max(each.log_probability, _LEAST) for each in top}
            told["token_logprobs"].append(max(chosen.log_probability, _LEAST) if is_told else None)
            told["top_logprobs"].append(named if is_told else None)
            told["text_offset"].append(self._offset)
            self._offset += len(token.text)
        if not self._num_top:
            told["top_logprobs"] = None
        return told
