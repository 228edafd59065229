"""Whether real chat templates render as `transformers` renders them, and real vocabularies give texts back.

`python benchmarks/chat_models.py MODELS` takes the folder `models` of llama.cpp's source, which llama-cpp-python's
source package contains, and needs `transformers` beside what Outrider needs. It prints a line for each template and
vocabulary that is not as it should be, then the counts; the exit status is 1 where there was one.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
from transformers.utils.chat_template_utils import render_jinja_template

from orchestrator.generation.text import Detokenizer
from services.engine.model.vocabulary import Vocabulary
from services.target.chat import ChatError, ChatTemplate
from services.target.messages import Message

CHATS = {
    "one turn": [("user", "What is 1 < 2?")],
    "three turns": [("user", "Hello."), ("assistant", "Hello, Zoë."), ("user", "And now?")],
    "with a system": [("system", "Be brief."), ("user", "Hello.")],
    "with a system, four turns": [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c")],
}
# Vocabularies of models that write; the others are refused.
WRITING = (llama_cpp.LLAMA_VOCAB_TYPE_SPM, llama_cpp.LLAMA_VOCAB_TYPE_BPE)
TEXTS = ["Hello, </s> world", " two  spaces ", "<|im_start|>system\n", "Zoë 🦆 中文\n\n\tend", "a<s>b</s>c<unk>"]


def open_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a file, which stays loaded."""
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
    if not handle:
        sys.exit(f"cannot load {path}")
    return Vocabulary(llama_cpp.llama_model_get_vocab(handle))


def ours(source: str, vocabulary: Vocabulary, chat: list[tuple[str, str]]) -> str | None:
    """Return what we render, nothing where the template refuses the chat."""
    messages = [Message(role, content) for role, content in chat]
    try:
        return ChatTemplate(source, vocabulary).render(messages, add_generation_prompt=True)[0]
    except ChatError:
        return None


def theirs(source: str, vocabulary: Vocabulary, chat: list[tuple[str, str]]) -> str | None:
    """Return what `transformers` renders, nothing where it fails."""
    names = {"bos_token": vocabulary.bos, "eos_token": vocabulary.eos}
    special = {
        name: "" if token is None else vocabulary.entries[token].spelling.decode() for name, token in names.items()
    }
    messages = [{"role": role, "content": content} for role, content in chat]
    try:
        rendered, _ = render_jinja_template(
            conversations=[messages], chat_template=source, add_generation_prompt=True, **special
        )
    except Exception:  # a template is a program: it can fail in any way
        return None
    return str(rendered[0])


def template_outcomes(folder: Path, vocabulary: Vocabulary) -> Iterator[str]:
    """Compare every template on every chat."""
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text()
        for name, chat in CHATS.items():
            mine, other = ours(source, vocabulary, chat), theirs(source, vocabulary, chat)
            if mine == other:
                yield "chats rendered alike" if mine is not None else "chats refused by both"
            elif other is None:
                yield "chats rendered by us only"
            else:
                print(f"{path.name}, {name}: {mine!r}, transformers gives {other!r}")
                yield "chats rendered otherwise"


def text_outcomes(path: Path) -> Iterator[str]:
    """Give every text to a vocabulary and read it again, whole and token by token."""
    vocabulary = open_vocabulary(path)
    if llama_cpp.llama_vocab_type(vocabulary._handle) not in WRITING:
        yield "vocabularies left out"
        return
    inputs = path.with_name(f"{path.name}.inp")
    texts = inputs.read_bytes().decode().split("\n__ggml_vocab_test__\n") if inputs.exists() else []
    outputs = [entry.output for entry in vocabulary.entries]
    for text in [*texts, *TEXTS]:
        tokens = vocabulary.tokenize(text, add_bos=True, parse_special=False)
        detokenizer = Detokenizer(outputs)
        streamed = "".join(map(detokenizer.feed, tokens)) + detokenizer.finish()
        expected = f" {text}" if text and vocabulary.adds_space else text
        whole = vocabulary.detokenize(tokens).decode(errors="replace")
        if whole == text and streamed == expected:
            yield "texts as given"
        else:
            print(f"{path.name}: {text!r} became {whole!r}, streamed {streamed!r}")
            yield "texts changed"


def main() -> None:
    """Look at all templates and vocabularies of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, metavar="MODELS")
    models: Path = parser.parse_args().models
    vocabularies = sorted(models.glob("ggml-vocab-*.gguf"))
    if not vocabularies:
        sys.exit(f"{models} has no vocabularies: name the folder `models` of llama.cpp's source")
    usual = open_vocabulary(models / "ggml-vocab-llama-bpe.gguf")
    outcomes = Counter(template_outcomes(models / "templates", usual))
    for path in vocabularies:
        outcomes.update(text_outcomes(path))
    for outcome, count in sorted(outcomes.items()):
        print(f"{outcome}: {count}")
    sys.exit(1 if outcomes["chats rendered otherwise"] or outcomes["texts changed"] else 0)


if __name__ == "__main__":
    main()
