"""A model that has the attention of another one and next to nothing else: what attention takes, in milliseconds."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np

from services.engine.errors import ModelLoadError
from services.engine.model.model import Model

_ARCHITECTURE = "llama"
# Numbers of an embedding, which llama.cpp's kernels take in whole blocks.
_WIDTH = 32


@contextmanager
def one_layer_of(model: Model) -> Iterator[Model]:
    """Yield a model of one layer with the heads of `model`; its logits mean nothing. Raises OSError, ModelLoadError."""
    with tempfile.TemporaryDirectory(prefix="outrider-") as folder:
        path = Path(folder) / "one-layer.gguf"
        _write(path, model)
        layer = Model(path, given_up=model.given_up)
        try:
            yield layer
        finally:
            layer.close()


def _write(path: Path, model: Model) -> None:
    # A tenth of a second, and no later start needs it.
    from gguf import GGUFWriter, TokenType  # noqa: PLC0415

    # It tells of every file that it writes.
    logging.getLogger("gguf").setLevel(logging.WARNING)
    num_heads: int = llama_cpp.llama_model_n_head(model.handle)
    num_kv_heads: int = llama_cpp.llama_model_n_head_kv(model.handle)
    if not (num_heads and num_kv_heads):
        raise ModelLoadError(f"the first layer of {model.path.name} has no attention")
    usual = llama_cpp.llama_model_n_embd(model.handle) // num_heads
    key, value = (
        int(model.metadata(f"{model.architecture}.attention.{kind}_length") or usual) for kind in ("key", "value")
    )
    # Positions turn pairs of numbers.
    if key % 2:
        raise ModelLoadError(f"heads of {model.path.name} have an odd number of elements")
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    writer = GGUFWriter(path, _ARCHITECTURE)
    writer.add_context_length(model.trained_context)
    writer.add_block_count(1)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(num_heads)
    writer.add_head_count_kv(num_kv_heads)
    writer.add_key_length(key)
    writer.add_value_length(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([TokenType.UNKNOWN, *[TokenType.BYTE] * 256])
    shapes = {
        "token_embd": (len(tokens), _WIDTH),
        "output_norm": (_WIDTH,),
        "blk.0.attn_norm": (_WIDTH,),
        "blk.0.attn_q": (num_heads * key, _WIDTH),
        "blk.0.attn_k": (num_kv_heads * key, _WIDTH),
        "blk.0.attn_v": (num_kv_heads * value, _WIDTH),
        "blk.0.attn_output": (_WIDTH, num_heads * value),
        "blk.0.ffn_norm": (_WIDTH,),
        "blk.0.ffn_gate": (_WIDTH, _WIDTH),
        "blk.0.ffn_up": (_WIDTH, _WIDTH),
        "blk.0.ffn_down": (_WIDTH, _WIDTH),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.full(shape, 1 / _WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
