#!/usr/bin/env bash
# llama-cpp-python 0.3.36 (its llama.cpp): a token whose text is that of some known model's end, as `</s>` or `<|end|>`,
# ends a generation in every vocabulary: loading makes a control token of it, although the file calls it a normal one
# and names another token as its end. Its text is then empty, too, in llama_token_to_piece without `special`. One
# expects the file's types and ids to hold, and `</s>` to be text where it is, say, a tag of HTML. A known beginning,
# `<|im_start|>`, stays as the file has it. Seen, all of type NORMAL and `end` the eos token:
#   </s>: ends True, control True, text ''
#   <|end|>: ends True, control True, text ''
#   <|im_start|>: ends False, control False, text '<|im_start|>'
#   end: ends True, control False, text 'end'
# Where pip has no wheel of llama-cpp-python it builds one, which takes a C++ compiler and minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-cpp-python==0.3.36 gguf==0.19.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'END'
import ctypes
import gguf, llama_cpp as llama, numpy as np

DIM, TEXTS = 64, ["</s>", "<|end|>", "<|im_start|>", "end"]
vocabulary = [*map(chr, range(33, 127)), "ab", *TEXTS]
file = gguf.GGUFWriter("model.gguf", "llama")
file.add_tokenizer_model("gpt2"), file.add_tokenizer_pre("gpt-2"), file.add_token_merges(["a b"])
file.add_token_list(vocabulary), file.add_token_types([gguf.TokenType.NORMAL] * len(vocabulary))
file.add_eos_token_id(vocabulary.index("end"))
file.add_context_length(256), file.add_embedding_length(DIM), file.add_block_count(1)
file.add_feed_forward_length(DIM), file.add_head_count(2), file.add_layer_norm_rms_eps(1e-5)
file.add_tensor("token_embd.weight", np.ones((len(vocabulary), DIM), np.float32))
for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
    file.add_tensor(f"blk.0.{name}.weight", np.ones((DIM, DIM), np.float32))
for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
    file.add_tensor(f"{name}.weight", np.ones(DIM, np.float32))
file.write_header_to_file(), file.write_kv_data_to_file(), file.write_tensors_to_file(), file.close()

quiet = llama.llama_log_callback(lambda *_: None)
llama.llama_log_set(quiet, ctypes.c_void_p(0))
model = llama.llama_model_load_from_file(b"model.gguf", llama.llama_model_default_params())
vocab, seen = llama.llama_model_get_vocab(model), []
for text in TEXTS:
    token, piece = vocabulary.index(text), ctypes.create_string_buffer(32)
    length = llama.llama_token_to_piece(vocab, token, piece, 32, 0, False)
    ends, is_control = llama.llama_vocab_is_eog(vocab, token), llama.llama_vocab_is_control(vocab, token)
    seen.append((ends, is_control, piece.raw[:length].decode()))
    print(f"{text}: ends {ends}, control {is_control}, text {seen[-1][2]!r}")
assert seen == [(True, True, "")] * 2 + [(False, False, "<|im_start|>"), (True, False, "end")]
END
