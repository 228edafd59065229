#!/usr/bin/env bash
# llama-cpp-python 0.3.36 (its llama.cpp): a `cb_eval` of a context that returns false where it is shown a tensor ends
# the work on the graph, and llama_decode returns 0 all the same: the cache then has the positions of rows that were
# never evaluated, and the next decode goes on behind them. One expects what an abort callback gives, code 2 and the
# positions taken back: ggml-backend.h says that false cancels the graph's computing, llama.h that 0 is success. Seen:
#   abort callback: decode 2, 0 positions held; cb_eval: decode 0, 3 positions held, and a decode behind them 0
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

@llama.ggml_backend_sched_eval_callback
def stop_at_first(tensor, is_question, _):
    return is_question and is_stopping  # every tensor is asked for, and none is gone on with

@llama.ggml_abort_callback
def abort(_):
    return is_stopping

def decode(context, tokens):
    return llama.llama_decode(context, llama.llama_batch_get_one((ctypes.c_int32 * len(tokens))(*tokens), len(tokens)))

def num_held(context):
    return llama.llama_memory_seq_pos_max(llama.llama_get_memory(context), 0) + 1

seen = []
for watch in (None, stop_at_first):
    options = llama.llama_context_default_params()
    options.n_ctx = 256
    if watch:
        options.cb_eval = watch
    context = llama.llama_init_from_model(model, options)
    if not watch:
        llama.llama_set_abort_callback(context, abort, None)
    is_stopping = True
    code = decode(context, [1, 2, 3])
    seen.append((code, num_held(context)))
    is_stopping = False
seen.append(decode(context, [4]))
(aborted, held), (cancelled, held_after), after = seen
print(f"abort callback: decode {aborted}, {held} positions held; ", end="")
print(f"cb_eval: decode {cancelled}, {held_after} positions held, and a decode behind them {after}")
assert seen == [(2, 0), (0, 3), 0]
END
