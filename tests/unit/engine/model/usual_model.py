"""The usual model, whose fields and tensors tests change."""

from tests.unit.engine.model.gguf_bytes import llama_fields, llama_tensors

FIELDS, TENSORS = llama_fields(), llama_tensors()
