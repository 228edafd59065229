#!/usr/bin/env bash
# llama-cpp-python 0.3.36: LlamaGrammar.from_json_schema drops `minimum`, `maximum`, `exclusiveMinimum` and
# `exclusiveMaximum` without a word: the grammar is the one of any number, so a model held to it may well answer what
# the schema forbids. One expects the bounds to be kept, as llama.cpp's own converter keeps them for integers, or the
# schema to be refused; bounds of strings and arrays are kept. Seen:
#   minimum and maximum of an integer: dropped; exclusiveMinimum of a number: dropped
#   maxLength of a string: kept; maxItems of an array: kept
# Where pip has no wheel of llama-cpp-python it builds one, which takes a C++ compiler and minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-cpp-python==0.3.36
"$folder/venv/bin/python" - <<'END'
import json
from llama_cpp import llama_grammar

def grammar(**schema):
    return llama_grammar.json_schema_to_gbnf(json.dumps(schema))  # what from_json_schema makes its grammar of

def said(plain, **bounds):
    return "dropped" if grammar(**plain, **bounds) == grammar(**plain) else "kept"

integer = said({"type": "integer"}, minimum=10, maximum=12)
number = said({"type": "number"}, exclusiveMinimum=0)
string = said({"type": "string"}, maxLength=3)
array = said({"type": "array", "items": {"type": "integer"}}, maxItems=2)
print(f"minimum and maximum of an integer: {integer}; exclusiveMinimum of a number: {number}")
print(f"maxLength of a string: {string}; maxItems of an array: {array}")
assert (integer, number, string, array) == ("dropped", "dropped", "kept", "kept")
END
