"""Models of many kinds: served right, or refused with a reason."""

import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue

from services.engine.errors import DecodeError, ModelLoadError
from services.engine.model.model import Model
from services.engine.runtime.padding import ExactMode, Exactness
from services.engine.runtime.runtime import LlamaRuntime, Logits, RuntimeOptions, Segment
from services.engine.scheduling.engine import Engine
from services.engine.startup.exactness import padded_runtime
from services.engine.startup.probe import compare, fixed_sequences, references
from tests import foreign_models
from tests.foreign_models import NO_TOKENIZER, VOCABULARY_SIZE, WINDOW, tiny_tokenizer
from tests.integration import unusual_models
from tests.integration.unusual_models import CHUNK
from tests.unit.engine.costs import LinearCosts
from tests.unit.engine.works import Greedy, prefix

pytestmark = pytest.mark.integration

NUM_SLOTS, LENGTH = 4, 8 * WINDOW
# Positions of another session that lose their place make a difference of about 1; rounding makes one of 0.01, and with
# flash attention of 0.08.
TOLERANCE = 0.2
OPTIONS = RuntimeOptions(num_slots=NUM_SLOTS, context_length=256, max_batch_rows=256, num_threads=1)
SERVED = {
    "plain": foreign_models.llama,
    "sliding window": foreign_models.sliding,
    "sectioned positions": foreign_models.sections,
    "heads by layer": unusual_models.heads_by_layer,
    "head sizes": unusual_models.head_sizes,
    "shared caches": unusual_models.shared_caches,
    "latent attention": unusual_models.latent,
}
LAYOUTS = {
    "plain": OPTIONS,
    "flash attention": replace(OPTIONS, flash_attention=True),
    "many slots": replace(OPTIONS, num_slots=200),
}


@pytest.fixture(scope="module", params=SERVED)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(SERVED[request.param](tmp_path_factory.mktemp("kinds") / "model.gguf"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(foreign_models.llama(tmp_path_factory.mktemp("plain") / "model.gguf"))


def from_scratch(model: Model, sequences: Sequence[Sequence[int]], options: RuntimeOptions = OPTIONS) -> list[Logits]:
    """The logits of every position of each sequence, evaluated alone and at once."""
    runtime = LlamaRuntime(model, options)
    expected = []
    for tokens in sequences:
        expected.append(runtime.decode([Segment(0, 0, tokens, len(tokens))])[0].copy())
        runtime.cut(0, 0)
    runtime.close()
    return expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cutting_back_and_going_on_is_as_from_scratch(model: Model, layout: str) -> None:
    """Sessions with prompts, rollbacks within and beyond a window, and replays, all in one cache."""
    rng = random.Random(1)
    sequences = fixed_sequences(VOCABULARY_SIZE, [LENGTH] * NUM_SLOTS, seed=2)
    expected = from_scratch(model, sequences, LAYOUTS[layout])
    runtime = LlamaRuntime(model, LAYOUTS[layout])
    held = [0] * NUM_SLOTS
    num_past_window = 0
    for _ in range(150):
        segments = []
        for slot, tokens in enumerate(sequences):
            chance = rng.random()
            if chance < 0.3:
                continue
            if chance < 0.4 or held[slot] == LENGTH:
                held[slot] = rng.choice((0, max(0, held[slot] - rng.randrange(3 * WINDOW))))
                runtime.cut(slot, held[slot])
            num_rows = min(rng.choice((1, 2, 3, 5, 30)), LENGTH - held[slot])
            segments.append(Segment(slot, held[slot], tokens[held[slot] : held[slot] + num_rows], num_rows))
        for segment, logits in zip(segments, runtime.decode(segments) if segments else (), strict=True):
            end = segment.first_position + len(segment.tokens)
            num_past_window += end > 2 * WINDOW
            difference = np.abs(logits - expected[segment.slot][segment.first_position : end])
            assert difference.max() < TOLERANCE, f"slot {segment.slot}, positions {segment.first_position} to {end}"
            # As a rejected draft is taken back.
            held[segment.slot] = end - rng.randrange(min(4, len(segment.tokens)))
            runtime.cut(segment.slot, held[segment.slot])
    assert num_past_window > 100
    runtime.close()


def test_cutting_back_across_the_end_of_a_chunk(tmp_path: Path) -> None:
    model = Model(unusual_models.chunked(tmp_path / "model.gguf"))
    options = replace(OPTIONS, num_slots=2, context_length=CHUNK + 256)
    tokens, rejected = fixed_sequences(VOCABULARY_SIZE, [CHUNK + 24, 24], seed=3)
    start = CHUNK - 8

    def after_prompt() -> LlamaRuntime:
        runtime = LlamaRuntime(model, options)
        for position in range(0, start, 256):
            runtime.decode([Segment(0, position, tokens[position : min(position + 256, start)], 0)])
        return runtime

    runtime = after_prompt()
    expected = runtime.decode([Segment(0, start, tokens[start:], 32)])[0].copy()
    runtime.cut(0, start + 4)
    for first, count in ((start + 4, 2), (start + 6, 12), (start + 10, 3), (CHUNK - 3, 8), (CHUNK + 5, 19)):
        runtime.cut(0, first)
        runtime.decode([Segment(0, first, rejected, 0)])
        runtime.cut(0, first)
        (logits,) = runtime.decode([Segment(0, first, tokens[first : first + count], count)])
        assert np.abs(logits - expected[first - start : first - start + count]).max() < TOLERANCE
    runtime.close()
    # What is compared has seen the end of a chunk: three layers of four know nothing of what was before.
    runtime = LlamaRuntime(model, options)
    (alone,) = runtime.decode([Segment(0, 0, tokens[CHUNK - 8 :], 32)])
    assert np.abs(alone - expected).max() > TOLERANCE
    runtime.close()


def test_a_shared_prefix_survives_what_its_owner_does(model: Model) -> None:
    tokens, other = fixed_sequences(VOCABULARY_SIZE, [LENGTH, LENGTH], seed=3)
    (expected,) = from_scratch(model, [tokens])
    runtime = LlamaRuntime(model, OPTIONS)
    half = LENGTH // 2
    runtime.decode([Segment(0, 0, tokens[:half], 0)])
    runtime.copy(0, 1, half)
    for _ in range(3):
        (logits,) = runtime.decode([Segment(1, half, tokens[half:], half)])
        assert np.abs(logits - expected[half:]).max() < TOLERANCE
        runtime.cut(0, 0)
        for position in range(LENGTH):
            runtime.decode([Segment(0, position, other[position : position + 1], 1)])
        runtime.cut(1, half)
    runtime.close()


def test_one_decode_is_one_pass_for_every_kind(model: Model) -> None:
    runtime = padded_runtime(model, replace(OPTIONS, count_passes=True), None, max_draft_tokens=7)
    # As on a device where rows cost next to nothing.
    runtime.costs = LinearCosts(1000.0)
    inner = runtime._inner
    assert isinstance(inner, LlamaRuntime)
    for first_position in (0, 8):
        # Sessions with gaps between them, and different numbers of rows.
        segments = [Segment(slot, first_position, [1] * (8 - slot), 8 - slot) for slot in (0, 2, 3)]
        (group,) = runtime.group(segments)
        assert [logits.shape for logits in runtime.decode(group)] == [(8, 512), (6, 512), (5, 512)]
        for slot in (2, 3):
            runtime.decode([Segment(slot, first_position + 8 - slot, [1] * slot, 1)])
    assert inner.num_passes == inner.num_decodes == 6
    runtime.close()


def test_every_kind_can_be_exact(model: Model) -> None:
    digesting = replace(OPTIONS, digest_attention=True)
    runtime = padded_runtime(model, digesting, Exactness(ExactMode.ROW_MULTIPLE, 8), 7)
    first_positions = [4 * WINDOW, 2 * WINDOW, 5, 0]
    sequences = fixed_sequences(VOCABULARY_SIZE, [LENGTH, 4 * WINDOW, 2 * WINDOW, WINDOW], seed=4)
    expected = references(runtime, sequences, first_positions)
    results = [
        compare(runtime, sequences, first_positions, expected, num_steps=20, max_draft_tokens=7, seed=seed)
        for seed in range(3)
    ]
    assert sum(result.num_rows for result in results) > 100
    assert sum(result.num_different for result in results) == 0
    runtime.close()


def _spelled_otherwise(model: str) -> dict[str, GGUFValue]:
    """The tiny tokenizer, said to be of another kind."""
    return tiny_tokenizer() | {"tokenizer.ggml.model": GGUFValue(model, GGUFValueType.STRING)}


def _fewer_tokens() -> dict[str, GGUFValue]:
    tokens = tiny_tokenizer()["tokenizer.ggml.tokens"]
    fewer = GGUFValue(tokens.value[:300], tokens.type, tokens.sub_type)
    return tiny_tokenizer() | {"tokenizer.ggml.tokens": fewer}


def _projector(path: Path) -> Path:
    return foreign_models.write_model(path, "clip", {"v.patch_embd.weight": (8, 8)})


def _cut_off(path: Path) -> Path:
    data = foreign_models.llama(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "recurrent": (foreign_models.recurrent, "mamba keeps recurrent state"),
    "hybrid": (foreign_models.hybrid, "lfm2 keeps recurrent state"),
    "encoder": (
        partial(foreign_models.encoder, fields={"attention.causal": False}),
        "bert does not generate one token after the other",
    ),
    "encoder and decoder": (foreign_models.encoder_decoder, "t5 does not generate one token after the other"),
    "sees what follows": (
        partial(foreign_models.llama, fields={"attention.causal": False}),
        "llama does not generate one token after the other",
    ),
    "embeddings": (
        partial(foreign_models.llama, fields={"pooling_type": 3}),
        "llama was trained to compare texts",
    ),
    "image projector": (_projector, "CLIP cannot be used as main model"),
    "unknown": (partial(foreign_models.write_model, architecture="quux", shapes={}), "unknown model architecture"),
    "no tokenizer": (partial(foreign_models.llama, tokenizer=NO_TOKENIZER), "llama has no tokenizer in its file"),
    "unknown tokenizer": (partial(foreign_models.llama, tokenizer=_spelled_otherwise("quux")), "unknown tokenizer"),
    "tokenizer without bytes": (
        partial(foreign_models.llama, tokenizer=_spelled_otherwise("llama")),
        "no tokens for single bytes",
    ),
    "fewer tokens than embeddings": (
        partial(foreign_models.llama, tokenizer=_fewer_tokens()),
        "tokenizer.ggml.tokens has 300 elements: token_embd.weight has 512 rows",
    ),
    "cut off": (_cut_off, "it was cut off"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_served_is_refused(kind: str, tmp_path: Path) -> None:
    write, reason = REFUSED[kind]
    path = write(tmp_path / "model.gguf")
    with pytest.raises(ModelLoadError) as refused:
        Model(path)
    sentence = str(refused.value)
    assert reason in sentence
    assert str(path) in sentence
    assert len(sentence.splitlines()) == 1


def test_a_model_without_a_cache_is_refused_though_its_file_does_not_tell(tmp_path: Path) -> None:
    model = Model(foreign_models.encoder(tmp_path / "model.gguf"))
    with pytest.raises(ModelLoadError, match="bert does not generate one token after the other"):
        LlamaRuntime(model, OPTIONS)
    model.close()


@pytest.mark.parametrize(
    ("begin", "code", "line"),
    [
        ("", 1, "llama.cpp cannot go on: file.cpp:7: no  reason"),
        ("with ending_refused('program: cannot serve model.gguf'): ", 2, "program: cannot serve model.gguf: llama.cpp"),
        ("with ending_refused('program'): pass\n", 1, "llama.cpp cannot go on: "),
    ],
    ids=["later", "while it starts", "once it has started"],
)
def test_whatever_llama_cpp_gives_up_for_costs_one_line(begin: str, code: int, line: str) -> None:
    """A process that would end in the same way again refuses to start."""
    imports = "from services.engine.complaints import ending_refused; from llama_cpp._ggml import libggml\n"
    script = f"{imports}{begin}libggml.ggml_abort(b'a/file.cpp', 7, b'no\\nreason')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code
    (said,) = done.stderr.splitlines()
    assert said.startswith(" ".join(line.split()))


BAD_SEGMENTS = {
    "no rows": ([], "0 rows"),
    "too many rows": ([Segment(slot, 0, [1] * 100, 1) for slot in range(3)], "301 rows"),
    "too many rows with padding": ([Segment(0, 0, [1] * 200, 1, 57)], "258 rows"),
    "past the context": ([Segment(0, 255, [1, 2], 1)], "positions 255 to 256"),
    "padding past the context": ([Segment(0, 250, [1, 2], 1, 5)], "positions 250 to 256"),
    "before the context": ([Segment(0, -1, [1, 2], 1)], "positions -1 to 0"),
    "slot that does not exist": ([Segment(NUM_SLOTS, 0, [1], 1)], "slot 4"),
    "negative slot": ([Segment(-1, 0, [1], 1)], "slot -1"),
    "id outside the vocabulary": ([Segment(0, 0, [1, VOCABULARY_SIZE], 1)], "vocabulary of 512"),
    "id outside what is stored": ([Segment(0, 0, [2**40, 1], 1)], "vocabulary of 512"),
    "negative id": ([Segment(0, 0, [-1], 1)], "vocabulary of 512"),
    "more outputs than tokens": ([Segment(0, 0, [1, 2], 3)], "3 outputs for 2 tokens"),
    "negative outputs": ([Segment(0, 0, [1, 2], -1)], "-1 outputs for 2 tokens"),
}


@pytest.mark.parametrize("name", BAD_SEGMENTS)
def test_bad_rows_are_refused_before_llama_cpp_sees_them(plain: Model, name: str) -> None:
    segments, reason = BAD_SEGMENTS[name]
    runtime = LlamaRuntime(plain, OPTIONS)
    (before,) = runtime.decode([Segment(1, 0, [1, 2, 3], 1)])
    before = before.copy()
    with pytest.raises(DecodeError, match=reason):
        runtime.decode([Segment(1, 3, [4], 1), *segments] if segments else [])
    runtime.cut(1, 2)
    assert np.abs(runtime.decode([Segment(1, 2, [3], 1)])[0] - before).max() < TOLERANCE
    runtime.close()


def test_a_batch_is_no_larger_than_the_caches(plain: Model) -> None:
    runtime = LlamaRuntime(plain, RuntimeOptions(num_slots=2, context_length=256, max_batch_rows=2048, num_threads=1))
    assert runtime.max_batch_rows == 512
    segments = [Segment(slot, 0, [1] * 256, 1) for slot in range(2)]
    assert [logits.shape for logits in runtime.decode(segments)] == [(1, VOCABULARY_SIZE)] * 2
    runtime.close()


@pytest.fixture
async def engine(plain: Model) -> AsyncIterator[Engine]:
    engine = Engine(LlamaRuntime(plain, OPTIONS))
    engine.start()
    yield engine
    engine.stop()


@pytest.mark.parametrize("tokens", [[5, VOCABULARY_SIZE], [1] * 257, [-1]])
async def test_work_that_nobody_checked_fails_alone(engine: Engine, tokens: list[int]) -> None:
    good = await engine.run(Greedy(prefix("a", [1, 2, 3])))
    with pytest.raises(DecodeError):
        await engine.run(Greedy(prefix("b", tokens)))
    assert (await engine.run(Greedy(prefix("c", [1, 2, 3])))).result == good.result
