"""Loading a GGUF file, and what is known about it afterwards."""

import ctypes
import os
import threading
from pathlib import Path

import llama_cpp
from llama_cpp._ggml import libggml

from services.engine.errors import ModelLoadError
from services.engine.vocabulary import Vocabulary

_GGML_LOG_LEVEL_ERROR = 4
_GGUF_MAGIC = b"GGUF"
_STDERR = 2

# AMX kernels of this llama.cpp read a tile configuration that the compiler may drop, and die of it on some machines
# (ggml-org/llama.cpp#20824, #26954). They come only with the extra buffer types: off, where AMX is built in.
_CAN_REPACK = b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info()

NO_GENERATION = "does not generate one token after the other"

_complaints = threading.local()


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_complaint(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    """Keep the first error line, which is the one that knows why, for the exception that follows; print nothing."""
    if level == _GGML_LOG_LEVEL_ERROR and not getattr(_complaints, "text", ""):
        _complaints.text = text.decode(errors="replace").strip()


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)  # type: ignore[untyped-decorator]
def _end(message: bytes) -> None:
    """Say in one line why llama.cpp gives up on the whole process, and end it; by itself it would add a stack trace."""
    reason = message.decode(errors="replace").rpartition("/")[2]
    os.write(_STDERR, f"llama.cpp cannot go on: {reason.strip()}\n".encode())
    os._exit(1)


libggml.ggml_set_abort_callback(_end)
llama_cpp.llama_log_set(_keep_complaint, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()


def take_complaint() -> str:
    """Return why llama.cpp failed on this thread, and forget it."""
    text: str = getattr(_complaints, "text", "")
    _complaints.text = ""
    return text or "llama.cpp gave no reason"


class Model:
    """A loaded model file: weights, vocabulary and metadata. Free it with `close`."""

    def __init__(self, path: Path, *, num_gpu_layers: int = 0) -> None:
        """Load `path`.

        Raises:
            ModelLoadError: the file is missing, unreadable, no GGUF, corrupt, or of an architecture not served.
        """
        check_readable(path)
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = num_gpu_layers
        parameters.use_extra_bufts = _CAN_REPACK
        self.path = path
        self.handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.handle:
            raise ModelLoadError(f"cannot load model {path}: {take_complaint()}")
        self.architecture = self.metadata("general.architecture")
        if problem := self._problem():
            self.close()
            raise ModelLoadError(f"cannot serve {path}: {self.architecture} {problem}")
        self.vocabulary = Vocabulary(llama_cpp.llama_model_get_vocab(self.handle))
        if self.vocabulary.lacks_bytes:
            self.close()
            raise ModelLoadError(f"cannot serve {path}: its tokenizer has no tokens for single bytes")
        self.name = self.metadata("general.name") or path.stem
        self.num_parameters: int = llama_cpp.llama_model_n_params(self.handle)
        self.num_bytes: int = llama_cpp.llama_model_size(self.handle)
        self.trained_context: int = llama_cpp.llama_model_n_ctx_train(self.handle)
        self.quantization: str = (
            llama_cpp.llama_ftype_name(llama_cpp.llama_model_ftype(self.handle)).decode().removeprefix("(guessed) ")
        )

    @property
    def cached_elements_per_token(self) -> int:
        """Numbers that the cache holds for one position: keys and values of all layers."""
        num_heads = llama_cpp.llama_model_n_head(self.handle)
        head_size = llama_cpp.llama_model_n_embd(self.handle) // num_heads
        key_size, value_size = (
            int(self.metadata(f"{self.architecture}.attention.{kind}_length") or head_size) for kind in ("key", "value")
        )
        num_layers: int = llama_cpp.llama_model_n_layer(self.handle)
        num_kv_heads: int = llama_cpp.llama_model_n_head_kv(self.handle)
        return num_layers * num_kv_heads * (key_size + value_size)

    def metadata(self, key: str) -> str:
        """Return a metadata value as text, empty when absent."""
        size = llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if size < 0:
            return ""
        buffer = ctypes.create_string_buffer(size + 1)
        llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    def close(self) -> None:
        """Free the weights. The model must not be used afterwards."""
        llama_cpp.llama_model_free(self.handle)

    def _problem(self) -> str:
        """Return why the model cannot be served, empty when it can."""
        if llama_cpp.llama_model_is_recurrent(self.handle) or llama_cpp.llama_model_is_hybrid(self.handle):
            return "keeps recurrent state, which cannot be cut back to a prefix"
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


def check_readable(path: Path) -> None:
    """Raise ModelLoadError for a path that is no readable GGUF file."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise ModelLoadError(f"cannot read model {path}: {error.strerror}") from error
    if magic != _GGUF_MAGIC:
        raise ModelLoadError(f"{path} is not a GGUF file")
