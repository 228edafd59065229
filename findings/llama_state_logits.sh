#!/usr/bin/env bash
# llama-cpp-python 0.3.36 (its llama.cpp): what llama_state_get_data gives does not hold the last logits, although
# llama.h says of its size "logits, embedding and memory", and llama_state_set_data says that it read all of it. The
# context then has the positions and no row to sample from: llama_get_logits_ith gives NULL until something has been
# decoded. One expects to sample at once, as in the context that was saved. What helps is to take back the last
# position and to decode its token again. Seen:
#   saved: 3 positions, logits True; restored: all bytes read, 3 positions, logits False; last token again: the same
# Where pip has no wheel of llama-cpp-python it builds one, which takes a C++ compiler and minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-cpp-python==0.3.36 gguf==0.19.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'END'
import ctypes
import gguf, llama_cpp as llama, numpy as np

DIM = 64
random = np.random.default_rng(0)
file = gguf.GGUFWriter("model.gguf", "llama")
file.add_string("tokenizer.ggml.model", "none")
file.add_vocab_size(DIM), file.add_context_length(256), file.add_embedding_length(DIM), file.add_block_count(1)
file.add_feed_forward_length(DIM), file.add_head_count(2), file.add_layer_norm_rms_eps(1e-5)
matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
for name in ("token_embd", *(f"blk.0.{each}" for each in matrices)):
    file.add_tensor(f"{name}.weight", random.standard_normal((DIM, DIM), np.float32))
for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
    file.add_tensor(f"{name}.weight", np.ones(DIM, np.float32))
file.write_header_to_file(), file.write_kv_data_to_file(), file.write_tensors_to_file(), file.close()

quiet = llama.llama_log_callback(lambda *_: None)
llama.llama_log_set(quiet, ctypes.c_void_p(0))
model = llama.llama_model_load_from_file(b"model.gguf", llama.llama_model_default_params())

def make():
    options = llama.llama_context_default_params()
    options.n_ctx = 256
    return llama.llama_init_from_model(model, options)

def decode(context, *tokens):
    rows = (ctypes.c_int32 * len(tokens))(*tokens)  # a batch only points to them
    assert llama.llama_decode(context, llama.llama_batch_get_one(rows, len(tokens))) == 0

def num_held(context):
    return llama.llama_memory_seq_pos_max(llama.llama_get_memory(context), 0) + 1

def logits(context):
    row = llama.llama_get_logits_ith(context, -1)
    return np.ctypeslib.as_array(row, (DIM,)).copy() if row else None

source, target = make(), make()
decode(source, 1, 2, 3)
size = llama.llama_state_get_size(source)
state = (ctypes.c_uint8 * size)()
assert llama.llama_state_get_data(source, state, size) == size
is_read = llama.llama_state_set_data(target, state, size) == size
saved, restored = (num_held(source), logits(source) is not None), (num_held(target), logits(target) is not None)
assert llama.llama_memory_seq_rm(llama.llama_get_memory(target), 0, 2, -1)
decode(target, 3)
is_same = np.allclose(logits(source), logits(target), atol=1e-4)
print(f"saved: {saved[0]} positions, logits {saved[1]}; ", end="")
print(f"restored: {'all bytes' if is_read else 'not all bytes'} read, ", end="")
print(f"{restored[0]} positions, logits {restored[1]}; ", end="")
print(f"last token again: {'the same' if is_same else 'others'}")
assert is_read and saved == (3, True) and restored == (3, False) and is_same
END
