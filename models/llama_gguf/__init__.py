"""Llama-architecture GGUF files: what is in them, reading them, and writing them whole or not at all."""

from models.llama_gguf.config import LlamaConfig, ModelFileError, Vocabulary, tensor_shapes
from models.llama_gguf.reader import LlamaFile, read_llama
from models.llama_gguf.writer import MATRIX_TYPES, write_llama, write_tensors

__all__ = [
    "MATRIX_TYPES",
    "LlamaConfig",
    "LlamaFile",
    "ModelFileError",
    "Vocabulary",
    "read_llama",
    "tensor_shapes",
    "write_llama",
    "write_tensors",
]
