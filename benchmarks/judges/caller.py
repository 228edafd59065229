"""A model that answers whatever it is asked with the same words and a call of a tool."""

from pathlib import Path

import numpy as np

from models.llama_gguf import LlamaConfig, Vocabulary, tensor_shapes, write_llama
from models.tiny import byte_alphabet

ANSWER = (
    *("Let", " me", " look."),
    *("<tool_call>", '\n{"name": "', "get", "_weather", '", "arguments"', ': {"city": ', '"Zü', 'rich"', ", "),
    *('"days"', ": 3", "}}", "\n</tool", "_call>"),
)
# In the form that Hermes and Qwen began with: by it the calls are known for what they are.
TEMPLATE = """{%- if tools %}Tools: {{ tools | tojson }}
A call of one is <tool_call>
{"name": ..., "arguments": ...}
</tool_call>
{% endif %}{% for message in messages %}{{ message.role }}: {{ message.content or "" }}
{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{% endfor %}{% endfor %}assistant:
"""
_CONTROL = ("<|begin|>", "<|end|>")
_DIM_STEP = 32
# So much more likely than all others is the token that comes next.
_LOGIT = 4.0


def write_caller(path: Path) -> Path:
    """Write the model: each of its tokens has a dimension of its own, and its output says which one follows."""
    letters = byte_alphabet()
    pieces = ["".join(letters[byte] for byte in piece.encode()) for piece in ANSWER]
    before = [*_CONTROL, *letters, "tt"]
    first = len(before)
    size = first + len(pieces)
    # A token that begins an answer follows any of a prompt, and the end follows the last one.
    follows = np.full(size, first)
    follows[first:] = [*range(first + 1, size), _CONTROL.index("<|end|>")]
    dim = -(-size // _DIM_STEP) * _DIM_STEP
    config = LlamaConfig(
        dim=dim, num_layers=1, num_heads=dim // _DIM_STEP, num_kv_heads=1, ffn=_DIM_STEP, vocab_size=size
    )
    tensors = {
        name: np.full(shape, float(len(shape) == 1), np.float32)
        for name, shape in tensor_shapes(config, is_tied=False).items()
    }
    tokens = np.arange(size)
    tensors["token_embd.weight"][tokens, tokens] = 1.0
    tensors["output.weight"][follows, tokens] = _LOGIT
    # llama.cpp wants at least one merge.
    vocabulary = Vocabulary([*before, *pieces], merges=["t t"], bos_id=0, eos_id=1, chat_template=TEMPLATE)
    write_llama(path, config, tensors, vocabulary, name="caller")
    return path
