#!/usr/bin/env bash
# llama-cpp-python 0.3.36 (its llama.cpp), a model that keeps a recurrent state (here a Mamba): llama_memory_seq_rm of
# the first positions of a sequence, or of some in the middle, says true and changes nothing: the logits that follow
# are those of the whole sequence. One expects false, as a cut of the last positions gives: llama.h has it for a part
# that cannot be removed. So a text dropped from the beginning of a long context goes on to count. Seen:
#   cut of 0 to 5: True, logits differ by 0.00 from no cut, by 0.85 from what would be left
#   cut of 3 to 6: True, logits differ by 0.00 from no cut, by 0.33 from what would be left
#   cut of the last two: False
# Where pip has no wheel of llama-cpp-python it builds one, which takes a C++ compiler and minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-cpp-python==0.3.36 gguf==0.19.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'END'
import ctypes
import gguf, llama_cpp as llama, numpy as np

DIM, INNER, STATE, RANK, KERNEL = 64, 128, 16, 4, 4
random = np.random.default_rng(0)
file = gguf.GGUFWriter("model.gguf", "mamba")
file.add_string("tokenizer.ggml.model", "none")
file.add_vocab_size(DIM), file.add_context_length(256), file.add_embedding_length(DIM), file.add_block_count(1)
file.add_feed_forward_length(0), file.add_head_count(0), file.add_layer_norm_rms_eps(1e-5)
file.add_ssm_conv_kernel(KERNEL), file.add_ssm_inner_size(INNER)
file.add_ssm_state_size(STATE), file.add_ssm_time_step_rank(RANK)
matrices = {"ssm_in.weight": (2 * INNER, DIM), "ssm_conv1d.weight": (INNER, KERNEL), "ssm_out.weight": (DIM, INNER)}
matrices |= {"ssm_x.weight": (RANK + 2 * STATE, INNER), "ssm_dt.weight": (INNER, RANK), "ssm_a": (INNER, STATE)}
matrices = {f"blk.0.{name}": shape for name, shape in matrices.items()} | {"token_embd.weight": (DIM, DIM)}
for name, shape in matrices.items():
    file.add_tensor(name, random.standard_normal(shape, np.float32) / 8)
for name in ("output_norm.weight", "blk.0.attn_norm.weight"):
    file.add_tensor(name, np.ones(DIM, np.float32))
for name in ("ssm_conv1d.bias", "ssm_dt.bias", "ssm_d"):
    file.add_tensor(f"blk.0.{name}", np.ones(INNER, np.float32))
file.write_header_to_file(), file.write_kv_data_to_file(), file.write_tensors_to_file(), file.close()

quiet = llama.llama_log_callback(lambda *_: None)
llama.llama_log_set(quiet, ctypes.c_void_p(0))
model = llama.llama_model_load_from_file(b"model.gguf", llama.llama_model_default_params())

def decode(context, tokens):
    rows = (ctypes.c_int32 * len(tokens))(*tokens)  # a batch only points to them
    assert llama.llama_decode(context, llama.llama_batch_get_one(rows, len(tokens))) == 0
    return np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (DIM,)).copy()

def after(tokens, cut=None):
    """Decode tokens, cut, decode one more; return what the cut said and the logits of the last."""
    options = llama.llama_context_default_params()
    options.n_ctx = 256
    context = llama.llama_init_from_model(model, options)
    decode(context, tokens)
    is_cut = llama.llama_memory_seq_rm(llama.llama_get_memory(context), 0, *cut) if cut else None
    return is_cut, decode(context, [20])

tokens, seen = list(range(1, 11)), []
_, whole = after(tokens)
for first, end in ((0, 5), (3, 6)):
    is_cut, logits = after(tokens, (first, end))
    _, left = after(tokens[:first] + tokens[end:])
    from_whole, from_left = np.abs(logits - whole).max(), np.abs(logits - left).max()
    print(f"cut of {first} to {end}: {is_cut}, logits differ by {from_whole:.2f} from no cut, ", end="")
    print(f"by {from_left:.2f} from what would be left")
    seen.append((is_cut, bool(from_whole < 1e-4), bool(from_left > 0.1)))
is_cut, _ = after(tokens, (8, -1))
print("cut of the last two:", is_cut)
assert seen == [(True, True, True)] * 2 and is_cut is False
END
