"""Models of kinds that cannot be served: refused with a reason."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue

from services.engine.errors import ModelLoadError
from services.engine.model.model import Model
from services.engine.runtime.runtime import LlamaRuntime
from tests import foreign_models
from tests.foreign_models import NO_TOKENIZER, tiny_tokenizer
from tests.integration.model_options import OPTIONS

pytestmark = pytest.mark.integration


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
    "ends in company": (
        partial(foreign_models.write_model, architecture="plamo2", shapes={}),
        "plamo2 ends llama.cpp where sessions share decodes",
    ),
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
