#!/usr/bin/env bash
# llama-cpp-python 0.3.36 (its llama.cpp): with a cache of separate streams (`kv_unified` false, as it is by default) a
# call of llama_decode takes as many passes through the model as there are sequences in it, unless these stand in
# neighbouring slots, in the order of the slots, with equal numbers of rows. One expects one pass, as all fits into
# n_ubatch and the return code is 0; nothing but the time tells. With `kv_unified` it is always one. Seen:
#   neighbours with equal rows 1, gaps 4, slots in reverse 4, unequal rows 4; unified, with gaps 1
# Where pip has no wheel of llama-cpp-python it builds one, which takes a C++ compiler and minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-cpp-python==0.3.36 gguf==0.19.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'END'
import ctypes
import gguf, llama_cpp as llama, numpy as np
from llama_cpp._ggml import libggml

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

libggml.ggml_get_name.argtypes, libggml.ggml_get_name.restype = [ctypes.c_void_p], ctypes.c_char_p
passes = []

@llama.ggml_backend_sched_eval_callback
def watch(tensor, is_question, _):
    if is_question and libggml.ggml_get_name(tensor) == b"result_norm":  # every pass computes it once
        passes.append(tensor)
    return False

quiet = llama.llama_log_callback(lambda *_: None)
llama.llama_log_set(quiet, ctypes.c_void_p(0))
model = llama.llama_model_load_from_file(b"model.gguf", llama.llama_model_default_params())

def num_passes(num_rows, kv_unified=False):
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_seq_max, options.kv_unified, options.cb_eval = 8 * 256, 8, kv_unified, watch
    context, batch = llama.llama_init_from_model(model, options), llama.llama_batch_init(64, 0, 1)
    rows = [(slot, position) for slot, number in num_rows.items() for position in range(number)]
    batch.n_tokens = len(rows)
    for at, (slot, position) in enumerate(rows):
        batch.token[at], batch.pos[at], batch.logits[at] = 1, position, True
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, slot
    passes.clear()
    assert llama.llama_decode(context, batch) == 0
    return len(passes)

gaps = {0: 2, 2: 2, 4: 2, 6: 2}
seen = [num_passes({0: 2, 1: 2, 2: 2, 3: 2}), num_passes(gaps), num_passes({3: 2, 2: 2, 1: 2, 0: 2})]
seen += [num_passes({0: 1, 1: 4, 2: 2, 3: 8}), num_passes(gaps, kv_unified=True)]
names = "neighbours with equal rows {}, gaps {}, slots in reverse {}, unequal rows {}; unified, with gaps {}"
print(names.format(*seen))
assert seen == [1, 4, 4, 4, 1]
END
