"""llama.cpp without anything of ours: one context, one sequence, one token at a time."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import llama_cpp
import numpy as np
from numpy.typing import NDArray

_MOST_ROWS = 1024


class LlamaAlone:
    """A model in a context of its own."""

    def __init__(self, path: Path, context_length: int, num_threads: int) -> None:
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._num_tokens = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context_length
        parameters.n_batch = parameters.n_ubatch = _MOST_ROWS
        parameters.n_threads = parameters.n_threads_batch = num_threads
        parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.swa_full = True
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch: Any = llama_cpp.llama_batch_init(_MOST_ROWS, 0, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a prompt, with the model's first token where it wants one."""
        data = text.encode()
        tokens = (ctypes.c_int32 * (len(data) + 2))()
        count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), tokens, len(tokens), True, False)
        return list(tokens[:count])

    def text(self, tokens: Sequence[int]) -> str:
        """Return what follows a prompt as text."""
        buffer = ctypes.create_string_buffer(256)
        sizes = (llama_cpp.llama_token_to_piece(self._vocabulary, each, buffer, 256, 0, False) for each in tokens)
        return b"".join(buffer.raw[:size] for size in sizes).decode(errors="replace")

    def shortfalls(self, prompt: Sequence[int], answer: Sequence[int], width: int = 1) -> NDArray[np.float32]:
        """Return, for each token of an answer, how far its logit lies below the best one; 0 is the greedy choice.

        Each decode has a multiple of `width` rows: those behind the last token are thrown away.
        """
        llama_cpp.llama_memory_clear(self._memory, True)
        found, position = [], 0
        for token, rows in zip(answer, [prompt, *([each] for each in answer[:-1])], strict=True):
            logits = self._last_logits(rows, position, width)
            position += len(rows)
            # The lowest of the best ids is the choice.
            found.append(logits.max() - logits[token] if logits.argmax() != token else 0.0)
        return np.array(found, np.float32)

    def _last_logits(self, tokens: Sequence[int], position: int, width: int) -> NDArray[np.float32]:
        num_rows = -(-len(tokens) // width) * width
        for index in range(num_rows):
            self._batch.token[index] = tokens[index] if index < len(tokens) else 0
            self._batch.pos[index] = position + index
            self._batch.n_seq_id[index] = 1
            self._batch.seq_id[index][0] = 0
            self._batch.logits[index] = index >= num_rows - width
        self._batch.n_tokens = num_rows
        assert llama_cpp.llama_decode(self._context, self._batch) == 0
        end = position + len(tokens)
        assert llama_cpp.llama_memory_seq_rm(self._memory, 0, end, -1)
        pointer = llama_cpp.llama_get_logits_ith(self._context, len(tokens) - 1)
        return np.ctypeslib.as_array(pointer, (self._num_tokens,))


def quantize_again(source: Path, target: Path) -> Path:
    """Write a model with fewer bits, which often says what the model says, and sometimes something else."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K
    parameters.allow_requantize = True
    code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters))
    assert code == 0
    return target
