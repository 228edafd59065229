#!/usr/bin/env bash
# llama-cpp-python 0.3.36 (its llama.cpp), a model with a sliding window and `swa_full` off, which saves memory: once a
# sequence has outgrown the window's cache, llama_memory_seq_rm(memory, 0, 100, -1) says true although the positions
# before 100 that the window needs are gone. The next decode, at position 100, returns 0 and other logits. One expects
# false: llama.h has it for a part that cannot be removed. llama_memory_seq_pos_min tells, by -1 after the cut. Seen:
#   window's cache: cut True, first position -1, decode 0, logits differ by 3.76
#   swa_full: cut True, first position 0, decode 0, logits differ by 0.00
# Where pip has no wheel of llama-cpp-python it builds one, which takes a C++ compiler and minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-cpp-python==0.3.36 gguf==0.19.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'END'
import ctypes
import gguf, llama_cpp as llama, numpy as np

DIM, STEP = 64, 16
random = np.random.default_rng(0)
file = gguf.GGUFWriter("model.gguf", "gemma2")
file.add_string("tokenizer.ggml.model", "none")
file.add_vocab_size(DIM), file.add_context_length(512), file.add_embedding_length(DIM), file.add_block_count(2)
file.add_feed_forward_length(DIM), file.add_head_count(2), file.add_layer_norm_rms_eps(1e-5)
file.add_sliding_window(16)
matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
for name in ("token_embd", *(f"blk.{layer}.{each}" for layer in range(2) for each in matrices)):
    file.add_tensor(f"{name}.weight", random.standard_normal((DIM, DIM), np.float32))
for name in ("output_norm", *(f"blk.{layer}.{each}" for layer in range(2) for each in norms)):
    file.add_tensor(f"{name}.weight", np.ones(DIM, np.float32))
file.write_header_to_file(), file.write_kv_data_to_file(), file.write_tensors_to_file(), file.close()

quiet = llama.llama_log_callback(lambda *_: None)
llama.llama_log_set(quiet, ctypes.c_void_p(0))
model = llama.llama_model_load_from_file(b"model.gguf", llama.llama_model_default_params())

def make(swa_full):
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch, options.swa_full = 512, STEP, STEP, swa_full
    return llama.llama_init_from_model(model, options)

def decode(context, tokens, first=0):
    for start in range(0, len(tokens), STEP):
        part = (ctypes.c_int32 * len(tokens[start : start + STEP]))(*tokens[start : start + STEP])
        batch = llama.llama_batch_get_one(part, len(part))  # goes on where the sequence ends
        batch.pos = (ctypes.c_int32 * len(part))(*range(first + start, first + start + len(part)))
        code = llama.llama_decode(context, batch)
    return code, np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (DIM,)).copy()

tokens = [int(token) for token in random.integers(0, DIM, 480)]
seen = []
for name, swa_full in (("window's cache", False), ("swa_full", True)):
    _, expected = decode(make(swa_full), tokens[:101])
    context = make(swa_full)
    decode(context, tokens)
    memory = llama.llama_get_memory(context)
    is_cut, first = llama.llama_memory_seq_rm(memory, 0, 100, -1), llama.llama_memory_seq_pos_min(memory, 0)
    code, logits = decode(context, tokens[100:101], first=100)
    difference = np.abs(logits - expected).max()
    print(f"{name}: cut {is_cut}, first position {first}, decode {code}, logits differ by {difference:.2f}")
    seen.append((is_cut, first, code, bool(difference > 0.1)))
assert seen == [(True, -1, 0, True), (True, 0, 0, False)]
END
