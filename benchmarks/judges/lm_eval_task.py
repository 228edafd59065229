"""lm-eval's `local-completions` on two tasks of local JSON: scores are the same with drafts and without.

One task is of choices, which are scored as they stand in the prompt (`echo` with log-probabilities), the other of text
that is generated. `OUTRIDER_TARGET` is the GGUF file of the target, whose tokenizer is used.
"""

import json
import os
from pathlib import Path
from typing import Any

import gguf
import pytest
from lm_eval import simple_evaluate
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

URL = os.environ["OUTRIDER_URL"]
DRAFTS = {"off": {"mode": "off"}, "auto": {"mode": "auto"}, "fixed": {"num_draft_tokens": 5, "drafter": "remote"}}
# The first choice of each is the one that code goes on with.
CHOICES = [
    ("import os\nimport ", ["sys\n", "§§\n"]),
    ("def __init__(self", [", name):\n", " while\n"]),
    ("for index in ", ["range(10):\n", "else else\n"]),
    ("    def __len__(self):\n        return ", ["len(self._items)\n", "import os\n"]),
    ("with open(path) as ", ["file:\n", "))))\n"]),
    ("try:\n    value = int(text)\nexcept ", ["ValueError:\n", "def class\n"]),
    ("class Stack:\n    ", ["def push(self, item):\n", "+ + +\n"]),
    ('if __name__ == "__main__":\n    ', ["main()\n", "]]]\n"]),
]
HEADERS = ["def main(argv):\n", "class Stack:\n", "def read_lines(path):\n", "def test_empty(self):\n"]
TASKS = {
    "local_choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 0,
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "local_texts": {
        "output_type": "generate_until",
        "doc_to_text": "{{context}}",
        "doc_to_target": "pass",
        "generation_kwargs": {"until": ["\n\n\n"], "max_gen_toks": 32, "temperature": 0},
        "metric_list": [{"metric": "exact_match"}],
    },
}


class Completions(LocalCompletionsAPI):  # type: ignore[misc]
    """Asks for drafts as it is told, and counts the accepted ones."""

    def __init__(self, drafts: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.drafts = drafts
        self.num_accepted = 0

    def _create_payload(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        return super()._create_payload(*arguments, **options) | {"outrider": self.drafts}

    def parse_generations(self, outputs: Any, **options: Any) -> list[str]:
        """Return the texts of answers."""
        told = outputs if isinstance(outputs, list) else [outputs]
        self.num_accepted += sum(each["timings"].get("draft_n_accepted", 0) for each in told)
        return super().parse_generations(outputs, **options)


def save_tokenizer(model: str, folder: Path) -> None:
    """Write a model's tokenizer as transformers reads it."""
    fields = gguf.GGUFReader(model).fields
    tokens, merges = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = tokens[fields["tokenizer.ggml.eos_token_id"].contents()]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks and the tokenizer."""
    path = tmp_path_factory.mktemp("lm-eval")
    save_tokenizer(os.environ["OUTRIDER_TARGET"], path / "tokenizer")
    rows = {
        "local_choices": [{"context": context, "choices": choices} for context, choices in CHOICES],
        "local_texts": [{"context": context} for context in HEADERS],
    }
    for name, task in TASKS.items():
        data = path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        dataset = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        # JSON is YAML.
        (path / f"{name}.yaml").write_text(json.dumps({"task": name, **dataset, **task}))
    return path


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, tuple[dict[str, Any], int]]:
    """What came of all tasks by how drafts were asked for, and how many draft tokens were accepted."""
    found = {}
    for name, drafts in DRAFTS.items():
        tokenizer = str(folder / "tokenizer")
        options = {"model": "target", "base_url": f"{URL}/v1/completions", "tokenizer": tokenizer, "max_length": 512}
        model = Completions(drafts, tokenizer_backend="huggingface", num_concurrent=2, **options)
        tasks = TaskManager(include_path=str(folder), include_defaults=False)
        told = simple_evaluate(model=model, tasks=list(TASKS), task_manager=tasks, bootstrap_iters=0, log_samples=True)
        found[name] = (told, model.num_accepted)
    return found


def test_choices_are_scored(outcomes: dict[str, tuple[dict[str, Any], int]]) -> None:
    told = outcomes["off"][0]
    assert told["n-samples"]["local_choices"]["effective"] == len(CHOICES)
    # By chance it is a half.
    assert told["results"]["local_choices"]["acc,none"] > 0.7


@pytest.mark.parametrize("drafts", ["auto", "fixed"])
def test_scores_are_the_same_with_drafts(outcomes: dict[str, tuple[dict[str, Any], int]], drafts: str) -> None:
    plain, drafted = outcomes["off"][0], outcomes[drafts][0]
    assert drafted["results"] == plain["results"]
    for task in TASKS:
        answers = [[each["filtered_resps"] for each in told["samples"][task]] for told in (plain, drafted)]
        # To the last bit, and to the last letter.
        assert answers[0] == answers[1]


def test_drafts_were_accepted_where_they_were_asked_for(outcomes: dict[str, tuple[dict[str, Any], int]]) -> None:
    assert outcomes["off"][1] == 0 < outcomes["fixed"][1]
