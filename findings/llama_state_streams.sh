#!/usr/bin/env bash
# llama-cpp-python 0.3.36 (its llama.cpp): with a cache of separate streams (`kv_unified` false, as it is by default)
# llama_state_seq_get_data gives the state of one sequence, and llama_state_seq_set_data takes it only in a context of
# the same n_seq_max: else it returns 0 ("n_stream mismatch" in the log). One expects the state of one sequence to fit
# whatever context has room for it, as it does with `kv_unified`. Seen:
#   separate streams, from 4 to 4 slots: restored 3 positions; from 4 to 8: refused
#   unified, from 4 to 8: restored 3 positions
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
file = gguf.GGUFWriter("model.gguf", "llama")
file.add_string("tokenizer.ggml.model", "none")
file.add_vocab_size(DIM), file.add_context_length(256), file.add_embedding_length(DIM), file.add_block_count(1)
file.add_feed_forward_length(DIM), file.add_head_count(2), file.add_layer_norm_rms_eps(1e-5)
matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
for name in ("token_embd", *(f"blk.0.{each}" for each in matrices)):
    file.add_tensor(f"{name}.weight", np.ones((DIM, DIM), np.float32))
for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
    file.add_tensor(f"{name}.weight", np.ones(DIM, np.float32))
file.write_header_to_file(), file.write_kv_data_to_file(), file.write_tensors_to_file(), file.close()

quiet = llama.llama_log_callback(lambda *_: None)
llama.llama_log_set(quiet, ctypes.c_void_p(0))
model = llama.llama_model_load_from_file(b"model.gguf", llama.llama_model_default_params())

def make(num_slots, kv_unified):
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_seq_max, options.kv_unified = num_slots * 256, num_slots, kv_unified
    return llama.llama_init_from_model(model, options)

def restored(num_before, num_after, kv_unified):
    source, target = make(num_before, kv_unified), make(num_after, kv_unified)
    assert llama.llama_decode(source, llama.llama_batch_get_one((ctypes.c_int32 * 3)(1, 2, 3), 3)) == 0
    size = llama.llama_state_seq_get_size(source, 0)
    state = (ctypes.c_uint8 * size)()
    assert llama.llama_state_seq_get_data(source, state, size, 0) == size
    if not llama.llama_state_seq_set_data(target, state, size, 1):
        return "refused"
    return f"restored {llama.llama_memory_seq_pos_max(llama.llama_get_memory(target), 1) + 1} positions"

alike, more, unified = restored(4, 4, False), restored(4, 8, False), restored(4, 8, True)
print(f"separate streams, from 4 to 4 slots: {alike}; from 4 to 8: {more}")
print(f"unified, from 4 to 8: {unified}")
assert (alike, more, unified) == ("restored 3 positions", "refused", "restored 3 positions")
END
