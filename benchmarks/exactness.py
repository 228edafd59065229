"""Rows of logits that differ from each session alone, over random schedules of six sessions.

`python benchmarks/exactness.py --target PATH [--schedules 200] [--exact on|off]` prints JSON lines. `--dense DIM`
writes a dense random model of that dimension first, in `--type`. `--exact each` tries every way to exactness in turn,
whether it is one or not, with flash attention and without; `--gpu-layers -1` puts the whole model on a GPU, if there
is one.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path

from models.tiny import write_tiny_model
from orchestrator.stack.bundled import bundled_pair
from services.engine.model.model import Model
from services.engine.model.quantize import quantize_file
from services.engine.runtime.devices import accelerators
from services.engine.runtime.padding import Exactness, PaddedRuntime, reserve
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup.exactness import candidates, runtime_of
from services.engine.startup.probe import compare, fixed_sequences, is_exact, references

MAX_DRAFT_TOKENS = 7
LENGTHS = (400, 150, 60, 60, 40, 40)
NUM_COMPARED = 36
FILE_TYPES = {"Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18}


def dense_model(folder: Path, dim: int, file_type: str) -> Path:
    """Write a model whose weights are all random: two layers, a small vocabulary."""
    written = "F32" if file_type in FILE_TYPES else file_type
    path = write_tiny_model(folder / "dense.gguf", dim=dim, num_layers=2, file_type=written)
    if file_type in FILE_TYPES:
        quantize_file(path, folder / "quantized.gguf", FILE_TYPES[file_type])
        return folder / "quantized.gguf"
    return path


def measure(
    model: Model,
    options: RuntimeOptions,
    exactness: Exactness | None,
    num_schedules: int,
    lengths: Sequence[int] = LENGTHS,
) -> dict[str, object]:
    """Run the schedules on an exact runtime, or on a plain one, with sessions of these lengths."""
    options = replace(options, reserve=reserve(exactness, MAX_DRAFT_TOKENS))
    inner = LlamaRuntime(model, options)
    runtime = PaddedRuntime(inner, exactness, MAX_DRAFT_TOKENS)
    sequences = fixed_sequences(runtime.vocabulary_size, lengths, seed=1)
    first_positions = [max(0, length - NUM_COMPARED) for length in lengths]
    started_s = time.perf_counter()
    expected = references(runtime, sequences, first_positions)
    decodes_before, passes_before = inner.num_decodes, inner.num_passes
    num_rows = num_different = 0
    for seed in range(num_schedules):
        result = compare(
            runtime,
            sequences,
            first_positions,
            expected,
            num_steps=12,
            max_draft_tokens=MAX_DRAFT_TOKENS,
            seed=seed,
        )
        num_rows += result.num_rows
        num_different += result.num_different
    runtime.close()
    return {
        "model": model.name,
        "type": model.quantization,
        "exact": f"{exactness.mode.value} {exactness.width}" if exactness else "off",
        "flash_attention": options.flash_attention,
        "longest": max(lengths),
        "schedules": num_schedules,
        "rows": num_rows,
        "different": num_different,
        "passes_per_decode": (inner.num_passes - passes_before) / (inner.num_decodes - decodes_before),
        "seconds": round(time.perf_counter() - started_s, 1),
    }


def _first_exact(model: Model, options: RuntimeOptions) -> Exactness:
    for exactness in candidates(MAX_DRAFT_TOKENS):
        runtime = runtime_of(
            model,
            replace(options, count_passes=False, digest_attention=model.num_gpu_layers == 0),
            exactness,
            MAX_DRAFT_TOKENS,
        )
        passed = is_exact(runtime, MAX_DRAFT_TOKENS)
        runtime.close()
        if passed:
            return exactness
    raise SystemExit(f"{model.path} is exact in no mode")


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", type=Path)
    parser.add_argument("--dense", type=int, metavar="DIM")
    parser.add_argument("--type", default="BF16")
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--exact", choices=("on", "off", "both", "each"), default="both")
    parser.add_argument("--lengths", type=int, nargs=len(LENGTHS), default=LENGTHS, help="tokens of each session")
    parser.add_argument("--gpu-layers", type=int, default=0, help="-1 for all (default: 0)")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    options = RuntimeOptions(
        num_slots=6, context_length=512, max_batch_rows=512, num_threads=arguments.threads, count_passes=True
    )
    with ExitStack() as resources:
        if arguments.dense:
            folder = Path(resources.enter_context(tempfile.TemporaryDirectory()))
            path = dense_model(folder, arguments.dense, arguments.type)
        else:
            path = arguments.target or bundled_pair()[0]
        model = Model(path, num_gpu_layers=arguments.gpu_layers if accelerators() else 0)
        for exactness, flash_attention in _ways(arguments.exact, model, options):
            tried = replace(options, flash_attention=flash_attention)
            line = measure(model, tried, exactness, arguments.schedules, arguments.lengths)
            print(json.dumps(line), flush=True)


def _ways(asked: str, model: Model, options: RuntimeOptions) -> Iterator[tuple[Exactness | None, bool]]:
    """Yield what is asked for: ways to exactness, and whether flash attention is on."""
    if asked == "each":
        yield from product((None, *candidates(MAX_DRAFT_TOKENS)), (False, True))
    if asked in ("on", "both"):
        yield _first_exact(model, options), False
    if asked in ("off", "both"):
        yield None, False


if __name__ == "__main__":
    main()
