"""Loading a GGUF file, and what is known about it afterwards."""

import ctypes
import os
import threading
from collections.abc import Collection
from pathlib import Path

import llama_cpp

from services.engine.complaints import pop_complaint
from services.engine.errors import ModelLoadError
from services.engine.model.cache_shape import cache_shape
from services.engine.model.gguf_file import GgufFile
from services.engine.model.vocabulary import Vocabulary

# AMX kernels of this llama.cpp read a tile configuration that the compiler may drop, and die of it on some machines
# (ggml-org/llama.cpp#20824, #26954). They come only with the extra buffer types: off, where AMX is built in.
_CAN_REPACK = b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info()

_LONGEST_NAME = 128
_LONGEST_KEY = 256
_CHAT_TEMPLATE = "tokenizer.chat_template"
_POSITIONS = "position_embd.weight"
NO_GENERATION = "does not generate one token after the other"

llama_cpp.llama_backend_init()


class Model:
    """A loaded model file: weights, vocabulary and metadata. Free it with `close`."""

    def __init__(
        self,
        path: Path,
        *,
        num_gpu_layers: int = 0,
        given_up: threading.Event | None = None,
        end_tokens: Collection[int] = (),
    ) -> None:
        """Load `path`. Once `given_up` is set, loading fails, and so does every decode.

        `end_tokens` end a generation beside those that do by the file.

        Raises:
            ModelLoadError: the file is missing, unreadable, no GGUF, corrupt, or of an architecture not served, or an
                end token is none of its ids.
        """
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = num_gpu_layers
        parameters.use_extra_bufts = _CAN_REPACK
        self.given_up = given_up or threading.Event()
        goes_on = llama_cpp.llama_progress_callback(lambda _share, _user_data: not self.given_up.is_set())
        parameters.progress_callback = goes_on
        self.path = path
        self.num_gpu_layers = num_gpu_layers
        with GgufFile(path) as file:
            self.parts = file.parts()
            self.handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
            if not self.handle:
                raise ModelLoadError(f"cannot load model {path}: {pop_complaint()}")
            self.cache_shape = cache_shape(file)
            skipped_bytes = file.skipped_bytes()
            positions = file.tensors.get(_POSITIONS)
            # Where something was learned of each position, there are no others.
            self.most_positions = positions.num_rows if positions is not None else None
        self.architecture = self.metadata("general.architecture")
        # Of some or all layers, which cannot be cut back to a prefix.
        self.keeps_state: bool = llama_cpp.llama_model_is_recurrent(self.handle) or llama_cpp.llama_model_is_hybrid(
            self.handle
        )
        # Then llama.cpp saves what attention keeps of the window with the state. It tells of no window of DeepSeek 4.
        self.saves_window: bool = self.keeps_state and self.cache_shape.saved_window > 0
        if problem := self._problem():
            self.close()
            raise ModelLoadError(f"cannot serve {path}: {self.architecture} {problem}")
        self.chat_templates = self._chat_templates()
        templates = "\n".join(self.chat_templates.values())
        vocabulary = llama_cpp.llama_model_get_vocab(self.handle)
        try:
            self.vocabulary = Vocabulary(vocabulary, end_tokens, templates=templates)
        except ValueError as error:
            self.close()
            raise ModelLoadError(f"cannot serve {path}: --end-tokens: {error}") from error
        if self.vocabulary.lacks_bytes:
            self.close()
            raise ModelLoadError(f"cannot serve {path}: its tokenizer has no tokens for single bytes")
        # On one line, and no longer than a name.
        self.name = " ".join(self.metadata("general.name").split())[:_LONGEST_NAME] or path.stem
        self.num_parameters: int = llama_cpp.llama_model_n_params(self.handle)
        # llama.cpp counts tensors that it does not load, too.
        self.num_bytes: int = llama_cpp.llama_model_size(self.handle) - skipped_bytes
        self.trained_context: int = llama_cpp.llama_model_n_ctx_train(self.handle)
        self.quantization: str = (
            llama_cpp.llama_ftype_name(llama_cpp.llama_model_ftype(self.handle)).decode().removeprefix("(guessed) ")
        )

    def check_positions(self, context_length: int, reserve: int) -> None:
        """Raise ModelLoadError where slots of this context, and so much more for padding, have unknown positions."""
        if self.most_positions is not None and context_length + reserve > self.most_positions:
            raise ModelLoadError(
                f"cannot serve {self.path}: it knows {self.most_positions} positions, {reserve} of them are for "
                f"padding: --context must be at most {self.most_positions - reserve}"
            )

    def metadata(self, key: str) -> str:
        """Return a metadata value as text, empty when absent."""
        size = llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if size < 0:
            return ""
        buffer = ctypes.create_string_buffer(size + 1)
        llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    def _chat_templates(self) -> dict[str, str]:
        """Return the sources of the chat templates by name; the usual one has none."""
        keys = [self._metadata_key(index) for index in range(llama_cpp.llama_model_meta_count(self.handle))]
        usual = {"": source} if (source := self.metadata(_CHAT_TEMPLATE)) else {}
        prefix = f"{_CHAT_TEMPLATE}."
        return usual | {key.removeprefix(prefix): self.metadata(key) for key in keys if key.startswith(prefix)}

    def _metadata_key(self, index: int) -> str:
        buffer = ctypes.create_string_buffer(_LONGEST_KEY)
        llama_cpp.llama_model_meta_key_by_index(self.handle, index, buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    def close(self) -> None:
        """Free the weights. The model must not be used afterwards."""
        llama_cpp.llama_model_free(self.handle)

    def _problem(self) -> str:
        """Return why the model cannot be served, empty when it can."""
        if llama_cpp.llama_model_has_encoder(self.handle) or llama_cpp.llama_model_is_diffusion(self.handle):
            return NO_GENERATION
        if self.metadata(f"{self.architecture}.attention.causal") == "false":
            return NO_GENERATION
        if self.metadata(f"{self.architecture}.pooling_type") not in ("", str(llama_cpp.LLAMA_POOLING_TYPE_NONE)):
            return "was trained to compare texts, not to write them"
        # Most functions on such a vocabulary end the process.
        if llama_cpp.llama_vocab_type(llama_cpp.llama_model_get_vocab(self.handle)) == llama_cpp.LLAMA_VOCAB_TYPE_NONE:
            return "has no tokenizer in its file"
        return ""
