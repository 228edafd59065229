"""Reading llama-architecture GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
from gguf import GGUFReader
from gguf.gguf_writer import GGUFValue
from gguf.quants import dequantize

from models.llama_gguf.config import ARCHITECTURE, FloatArray, LlamaConfig, ModelFileError, Vocabulary, tensor_shapes

# What GGUFReader raises on bytes that are no GGUF.
_READER_ERRORS = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, MemoryError)


class _BoundedReader(GGUFReader):
    """GGUFReader takes what lies past the end of the file for empty, and may loop over billions of empty values."""

    def _get(self, offset: int, dtype: npt.DTypeLike, count: int = 1, override_order: Any = None) -> npt.NDArray[Any]:
        values = super()._get(offset, dtype, count, override_order)
        if values.size != int(count):
            raise ValueError("it ends early")
        return values


class LlamaFile:
    """A llama-architecture GGUF opened for reading: metadata at once, tensors mapped and decoded one at a time.

    Raises ModelFileError when the file is missing, corrupt, of another architecture, or has tensors missing,
    misshapen or unknown.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            reader = _BoundedReader(path)
            self.fields: dict[str, GGUFValue] = {
                name: GGUFValue(field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)
                for name, field in reader.fields.items()
                if not name.startswith("GGUF.")
            }
        except OSError as error:
            raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
        except _READER_ERRORS as error:
            raise ModelFileError(f"{path} is not a valid GGUF file: {error}") from error
        architecture = self._text("general.architecture", "none")
        if architecture != ARCHITECTURE:
            raise ModelFileError(f"{path} has the architecture {architecture!r}; only {ARCHITECTURE!r} is supported")
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        try:
            self.config = self._read_config()
        except ModelFileError:
            raise
        except (ValueError, OverflowError) as error:
            raise ModelFileError(f"{path} contradicts itself: {error}") from error
        self._check_tensors()

    @property
    def is_tied(self) -> bool:
        """Whether the embedding matrix serves as the output matrix too."""
        return "output.weight" not in self._tensors

    @property
    def name(self) -> str:
        """The model's name, the file's stem where it has none."""
        return self._text("general.name", self.path.stem)

    def has(self, tensor: str) -> bool:
        """Whether there is a tensor of this name."""
        return tensor in self._tensors

    def tensor_type(self, name: str) -> str:
        """The type in which a tensor is stored, such as "BF16" or "Q4_K"."""
        return self._tensors[name].tensor_type.name

    def tensor(self, name: str) -> FloatArray:
        """A tensor decoded to float32, in the shape that `tensor_shapes` gives.

        Raises ModelFileError for a type that cannot be decoded.
        """
        stored = self._tensors[name]
        try:
            return dequantize(stored.data, stored.tensor_type)
        except NotImplementedError as error:
            raise ModelFileError(
                f"{self.path}: {name} has the type {self.tensor_type(name)}, which cannot be decoded"
            ) from error

    def vocabulary(self) -> Vocabulary:
        """The tokenizer. Raises ModelFileError when it is not byte-level BPE or contradicts itself."""
        model = self._text("tokenizer.ggml.model", "none")
        if model != "gpt2":
            raise ModelFileError(f"{self.path} has the tokenizer {model!r}; only 'gpt2' is supported")
        tokens = self._list("tokenizer.ggml.tokens")
        if len(tokens) != self.config.vocab_size:
            raise ModelFileError(f"{self.path} has {len(tokens)} tokens for {self.config.vocab_size} embedding rows")
        try:
            return Vocabulary(
                tokens=tokens,
                merges=self._list("tokenizer.ggml.merges"),
                token_types=self._list("tokenizer.ggml.token_type"),
                bos_id=int(self._number("tokenizer.ggml.bos_token_id", 0)),
                eos_id=int(self._number("tokenizer.ggml.eos_token_id", 0)),
                add_bos=bool(self._number("tokenizer.ggml.add_bos_token", 0)),
                pre_tokenizer=self._text("tokenizer.ggml.pre", "default"),
                chat_template=self._text("tokenizer.chat_template", "") or None,
            )
        except ModelFileError:
            raise
        except ValueError as error:
            raise ModelFileError(f"{self.path} contradicts itself: {error}") from error

    def _read_config(self) -> LlamaConfig:
        def size(key: str, default: float | None = None) -> int:
            return int(self._number(f"{ARCHITECTURE}.{key}", default))

        embedding = self._tensors.get("token_embd.weight")
        rows = int(embedding.shape[-1]) if embedding is not None else 0
        num_heads = size("attention.head_count")
        config = LlamaConfig(
            dim=size("embedding_length"),
            num_layers=size("block_count"),
            num_heads=num_heads,
            num_kv_heads=size("attention.head_count_kv", num_heads),
            ffn=size("feed_forward_length"),
            vocab_size=size("vocab_size", rows),
            context_length=size("context_length"),
            rms_eps=self._number(f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon"),
            rope_theta=self._number(f"{ARCHITECTURE}.rope.freq_base", 10000.0),
        )
        for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
            if size(key, config.head_size) != config.head_size:
                raise ModelFileError(f"{self.path}: {ARCHITECTURE}.{key} must equal the head size, {config.head_size}")
        return config

    def _check_tensors(self) -> None:
        # Before the names of all their tensors are made.
        if self.config.num_layers > len(self._tensors):
            raise ModelFileError(
                f"{self.path}: {ARCHITECTURE}.block_count is {self.config.num_layers}, "
                f"the file has {len(self._tensors)} tensors"
            )
        expected = tensor_shapes(self.config, is_tied=self.is_tied)
        for name, shape in expected.items():
            stored = self._tensors.get(name)
            if stored is None:
                raise ModelFileError(f"{self.path} lacks the tensor {name}")
            found = tuple(int(size) for size in reversed(stored.shape))
            if found != shape:
                raise ModelFileError(f"{self.path}: {name} has the shape {found}, not {shape}")
        unknown = next((name for name in self._tensors if name not in expected), None)
        if unknown is not None:
            raise ModelFileError(f"{self.path} has a tensor that a plain llama model lacks: {unknown}")

    def _value(self, key: str) -> Any:
        return self.fields[key].value if key in self.fields else None

    def _text(self, key: str, default: str) -> str:
        value = self._value(key)
        return value if isinstance(value, str) else default

    def _number(self, key: str, default: float | None = None) -> float:
        value = self._value(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int | float):
            raise ModelFileError(f"{self.path}: {key} must be one number")
        return value

    def _list(self, key: str) -> list[Any]:
        value = self._value(key)
        return value if isinstance(value, list) else []


def read_llama(path: Path) -> tuple[LlamaConfig, dict[str, FloatArray], Vocabulary]:
    """A whole model, tensors decoded to float32. Raises ModelFileError as LlamaFile does."""
    source = LlamaFile(path)
    vocabulary = source.vocabulary()
    names = tensor_shapes(source.config, is_tied=source.is_tied)
    return source.config, {name: source.tensor(name) for name in names}, vocabulary
