"""Which families of models are served, and how exactly: every architecture that llama.cpp makes a random model of.

llama.cpp's own `test-llama-archs --out FOLDER` writes small random models of all architectures that it can make up a
shape for; they have no tokenizer. `python benchmarks/families.py FOLDER` gives each the tokenizer of our tiny models,
loads it as a target with `--exact on` does, in a process of its own, and prints a JSON line for each. With `--write-to`
it keeps them with that tokenizer instead, which `tests/integration/test_stateful_kinds.py` can take.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, ReaderField

from models.llama_gguf.writer import vocabulary_fields
from models.tiny import tiny_vocabulary
from services.engine.errors import EngineError
from services.engine.model.model import Model
from services.engine.runtime.runtime import RuntimeOptions
from services.engine.startup.exactness import choose_on, most_reserve
from services.engine.startup.measuring import Budget, Measuring, findings
from services.engine.startup.model_service import LoadedModel
from services.engine.startup.trial import tried

VOCABULARY_SIZE = 512
MAX_DRAFT_TOKENS = 7
OPTIONS = RuntimeOptions(
    num_slots=4, context_length=512, max_batch_rows=512, num_threads=1, num_snapshots=MAX_DRAFT_TOKENS + 1
)
# Of the vocabulary, which is another one.
_OF_TOKENS = ("token_embd.weight", "output.weight", "output.bias")
# Real files have one number, this writer one for each layer.
_SINGLE = ("kimi-linear.attention.head_count",)
# llama.cpp's writer fills in what an architecture has not; these it has, and zero is their value.
_MAY_BE_ZERO = ("hash_layer_count", "ple.eos_token_id")


def with_tokenizer(source: Path, target: Path) -> None:
    """Write a model again, with our tiny tokenizer and as many random embeddings."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in _own_fields(reader):
        if key in _SINGLE:
            writer.add_uint32(key, max(field.contents()))
        else:
            writer.add_key_value(key, field.contents(), *field.types[:2])
    writer.add_vocab_size(VOCABULARY_SIZE)
    for key, field in vocabulary_fields(tiny_vocabulary(VOCABULARY_SIZE)).items():
        writer.add_key_value(key, field.value, field.type, field.sub_type)
    random = np.random.default_rng(0)
    for tensor in reader.tensors:
        data = tensor.data
        if tensor.name in _OF_TOKENS:
            shape = (VOCABULARY_SIZE, *data.shape[1:])
            data = random.normal(0.0, float(data.std()), shape).astype(np.float32)
        writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _own_fields(reader: GGUFReader) -> Iterator[tuple[str, ReaderField]]:
    """Yield what the file says of the architecture, but for what a writer fills in where there is nothing to say."""
    for key, field in reader.fields.items():
        is_of_others = key.startswith(("GGUF.", "tokenizer.")) or key == "general.architecture"
        if is_of_others or key.endswith((".vocab_size", ".pooling_type")):
            continue
        value = field.contents()
        is_number = field.types[0] not in (GGUFValueType.ARRAY, GGUFValueType.STRING, GGUFValueType.BOOL)
        is_nothing = is_number and (not value or not math.isfinite(value)) and not key.endswith(_MAY_BE_ZERO)
        if not is_nothing and value != []:
            yield key, field


def describe(path: Path) -> dict[str, object]:
    """Load a model as a target does; return what it is, and how it is served or why not."""
    try:
        model = Model(path)
    except EngineError as error:
        return {"refused": _reason(error, path)}
    found: dict[str, object] = {"architecture": model.architecture, "keeps_state": model.keeps_state}
    measuring = Measuring(Budget(math.inf), findings(), lambda what: None)
    most = (model.most_positions or math.inf) - most_reserve(MAX_DRAFT_TOKENS, keeps_state=model.keeps_state)
    options = replace(OPTIONS, context_length=int(min(OPTIONS.context_length, most)))
    try:
        loaded = tried(LoadedModel(model, options, path.name, "CPU"), measuring)
        found["shares_decodes"] = loaded.options.shares_decodes
        if model.keeps_state:
            found["num_snapshots"] = loaded.options.num_snapshots
        exactness = choose_on(loaded, MAX_DRAFT_TOKENS, measuring)
        found["exact"] = f"{exactness.mode.value} {exactness.width}"
    except EngineError as error:
        found["exact" if "shares_decodes" in found else "refused"] = _reason(error, path)
    return found


def _reason(error: EngineError, path: Path) -> str:
    return str(error).replace(str(path), path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="a part of the names of the files")
    parser.add_argument("--write-to", type=Path, metavar="FOLDER", help="write the models there, and do no more")
    parser.add_argument("--one", action="store_true", help="FOLDER is a model: describe it in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(describe(arguments.folder)))
        return
    if arguments.write_to:
        arguments.write_to.mkdir(parents=True, exist_ok=True)
    for source in sorted(arguments.folder.glob("*.gguf")):
        if arguments.only not in source.name:
            continue
        if arguments.write_to:
            with_tokenizer(source, arguments.write_to / source.name)
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, source.name)
            with_tokenizer(source, path)
            command = [sys.executable, __file__, "--one", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        found = json.loads(lines[-1]) if lines else {"ended": (done.stderr.splitlines() or [str(done.returncode)])[-1]}
        print(json.dumps({"model": source.stem, **found}), flush=True)


if __name__ == "__main__":
    main()
