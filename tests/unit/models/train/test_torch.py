"""Training code that needs PyTorch (the extra `train`); skipped without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch: the extra `train`")

from models.llama_gguf import ModelFileError, Vocabulary, tensor_shapes, write_llama  # noqa: E402  # after the skip
from models.train.draft import Distillation, Rows  # noqa: E402
from models.train.llama import llama_config, llama_tensors, load_gguf  # noqa: E402
from models.train.model import DRAFT_SHAPE, TARGET_SHAPE, Decoder, ModelShape  # noqa: E402
from models.train.optimizer import Optimizers, Rates, orthogonalize  # noqa: E402
from models.train.schedule import Stage  # noqa: E402
from models.train.stores import Store, are_complete, mark_complete  # noqa: E402
from models.train.target import Likelihood  # noqa: E402
from models.train.teacher import write  # noqa: E402
from models.train.together import MutualLearning, Pair, Texts, repetitions  # noqa: E402
from models.train.trainer import Trainer  # noqa: E402
from models.train.windows import Windows  # noqa: E402
from models.train.workers import Inline, Workers  # noqa: E402

SMALL = ModelShape(dim=128, num_layers=2, num_heads=2, num_kv_heads=2, ffn=96, vocabulary=64)
RATES = Rates(5e-3, 5e-3)
GROUPED = ModelShape(dim=128, num_layers=2, num_heads=2, num_kv_heads=1, ffn=96, vocabulary=64)


def random_model(shape: ModelShape) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("shape", [SMALL, GROUPED], ids=["full", "grouped"])
def test_cached_states_equal_those_of_one_pass(shape: ModelShape) -> None:
    model = random_model(shape)
    ids = torch.randint(64, (3, 12))
    with torch.no_grad():
        whole = model.states(ids)
        cache = model.new_cache(3, 12).float()
        parts = [model.states(ids[:, :7], cache)]
        parts += [model.states(ids[:, t : t + 1], cache, t) for t in range(7, 12)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)


def test_no_position_sees_a_later_one() -> None:
    model = random_model(SMALL)
    ids = torch.randint(64, (1, 10))
    changed = ids.clone()
    changed[0, 6:] = (changed[0, 6:] + 1) % 64
    with torch.no_grad():
        before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize("shape", [TARGET_SHAPE, DRAFT_SHAPE, GROUPED], ids=["target", "draft", "small"])
def test_exported_tensors_are_those_of_a_llama_file(shape: ModelShape) -> None:
    tensors = llama_tensors(shape, Decoder(shape).state_dict())
    assert {name: tensor.shape for name, tensor in tensors.items()} == tensor_shapes(llama_config(shape))


def test_a_file_read_into_a_deeper_shape_says_the_same(tmp_path: Path) -> None:
    model = random_model(GROUPED)
    path = tmp_path / "model.gguf"
    vocabulary = Vocabulary(tokens=[chr(0x100 + number) for number in range(GROUPED.vocabulary)], merges=[])
    tensors = llama_tensors(GROUPED, model.state_dict())
    write_llama(path, llama_config(GROUPED), tensors, vocabulary, name="small", file_type="F32")
    read = load_gguf(path, replace(GROUPED, num_layers=4))
    ids = torch.randint(64, (1, 10))
    with torch.no_grad():
        torch.testing.assert_close(read(ids), model(ids))
    for shape in (replace(GROUPED, num_layers=1), replace(GROUPED, ffn=64), SMALL):
        with pytest.raises(ModelFileError, match="model of"):
            load_gguf(path, shape)


def test_a_dim_unequal_to_the_heads_cannot_be_exported() -> None:
    shape = ModelShape(dim=192, num_layers=1, num_heads=2, num_kv_heads=2, ffn=96)
    with pytest.raises(ValueError, match="64 times the number of heads"):
        llama_tensors(shape, {})


@pytest.mark.parametrize("size", [(2, 24, 64), (2, 64, 24)])
def test_orthogonalized_steps_have_singular_values_near_one(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(size)).float())
    assert values.min() > 0.5
    assert values.max() < 1.5


def trainer(folder: Path, minutes: float) -> Trainer:
    torch.manual_seed(0)
    model = Decoder(SMALL)
    stream = np.tile(np.arange(2, 34, dtype=np.uint16), 200)
    optimizers = Optimizers((model, RATES))
    windows = Windows(stream, seed=1)
    made = Trainer(
        "small", Likelihood(model), optimizers, windows, folder, minutes, stage_of=lambda _: Stage(1.0, 64, 1)
    )
    return made


def test_a_run_learns_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    first = trainer(tmp_path, minutes=60)
    passes = Inline(first.objective, is_compiled=False)
    losses = [first._step(passes) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.5
    first.checkpoint()
    second = trainer(tmp_path, minutes=60)
    second.resume()
    assert second.num_steps == 12
    assert second.budget.spent_s == first.budget.spent_s
    loss = second._step(Inline(second.objective, is_compiled=False))
    assert loss == pytest.approx(losses[-1], abs=0.3)


def test_a_checkpoint_replaces_the_older_one_whole(tmp_path: Path) -> None:
    one = trainer(tmp_path, minutes=60)
    one.checkpoint()
    one.checkpoint()
    assert [path.name for path in tmp_path.iterdir()] == ["small.pt"]


@pytest.mark.slow
def test_worker_processes_give_the_gradient_of_one_process() -> None:
    torch.manual_seed(0)
    objective = Likelihood(random_model(SMALL))
    ids = torch.randint(64, (6, 17))
    workers = Workers(objective, 2, is_compiled=False)
    try:
        shared_loss = workers.accumulate(ids, 2, 0.5)
    finally:
        workers.close()
    shared = [parameter.grad.clone() for parameter in objective.trained.parameters()]
    objective.zero_grad(set_to_none=True)
    loss = Inline(objective, is_compiled=False).accumulate(ids, 2, 0.5)
    assert shared_loss == pytest.approx(loss, rel=1e-3)
    for found, parameter in zip(shared, objective.trained.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, atol=2e-2, rtol=2e-2)


def test_a_store_keeps_ids_and_states_and_is_complete_only_when_marked(tmp_path: Path) -> None:
    store = Store("written", num_rows=3, length=5, dim=4)
    store.create(tmp_path)
    assert not are_complete(tmp_path, [store], "one")
    ids, states = store.open(tmp_path, is_writable=True)
    ids[1], states[1] = [0, 7, 8, 9, 4095], 0.5
    del ids, states
    ids, states = store.open(tmp_path)
    assert ids[1].tolist() == [0, 7, 8, 9, 4095]
    assert states[1].sum() == 10
    assert not ids[0].any()
    mark_complete(tmp_path, [store], "one")
    assert are_complete(tmp_path, [store], "one")
    assert not are_complete(tmp_path, [store], "another target")
    assert not are_complete(tmp_path, [], "one")


def test_the_target_goes_on_from_its_prompts_and_hands_out_the_states_it_wrote_from() -> None:
    model = random_model(SMALL)
    prompts = torch.randint(64, (2, 6))
    ids, states = write(model, prompts, 14, 0.0)
    assert torch.equal(ids[:, :6], prompts)
    with torch.no_grad():
        logits = model(ids)
    assert (logits[:, 5:-1].argmax(-1) == ids[:, 6:]).float().mean() > 0.8  # bfloat16 may flip a near tie
    torch.testing.assert_close(states @ model.embedding.detach().mT, logits, atol=0.5, rtol=0.1)


def test_a_distilled_draft_comes_closer_to_its_target(tmp_path: Path) -> None:
    target = random_model(ModelShape(dim=128, num_layers=1, num_heads=2, num_kv_heads=2, ffn=96, vocabulary=64))
    store = Store("written", num_rows=32, length=64, dim=128)
    store.create(tmp_path)
    ids, states = store.open(tmp_path, is_writable=True)
    written, written_states = write(target, torch.randint(64, (32, 8)), 64, 1.0)
    ids[:], states[:] = written.numpy(), written_states.numpy()
    draft = Decoder(GROUPED)
    objective = Distillation(draft, target, [store], tmp_path)
    optimizers = Optimizers((draft, RATES))
    rows = Rows([store], seed=1)
    passes = Inline(objective, is_compiled=False)
    losses = []
    for _ in range(15):
        losses.append(passes.accumulate(torch.from_numpy(rows.next(32, 64)), 32, 0.0))
        optimizers.step(1.0, 0.9)
    assert 0 < losses[-1] < 0.8 * losses[0]
    assert rows.epochs == pytest.approx(15)


WRITTEN = 193


def texts(*, is_drawn: bool = True) -> Texts:
    """A corpus that counts to 34 over and over, and written text that is noise at first and then one token."""
    written = np.random.default_rng(1).integers(2, 64, (8, WRITTEN - 1)).astype(np.uint16)
    written[:, 160:] = 7
    corpus = Windows(np.tile(np.arange(2, 34, dtype=np.uint16), 200), seed=1)
    return Texts(corpus, written, np.ones(8, np.bool_) if is_drawn else np.zeros(8, np.bool_), seed=1)


@pytest.mark.parametrize(("length", "learner"), [(WRITTEN, "draft"), (512, "both")])
def test_the_pull_between_both_moves_the_target_on_corpus_text_alone(length: int, learner: str) -> None:
    objective = MutualLearning(Pair(random_model(SMALL), random_model(GROUPED)))
    inputs = objective.prepare(torch.from_numpy(texts(is_drawn=False).next(2, length)))
    objective(inputs, torch.tensor(0.5)).backward()
    assert any(bool(p.grad.any()) for p in objective.trained.draft.parameters())
    assert any(bool(p.grad.any()) for p in objective.trained.target.parameters()) == (learner == "both")


def test_a_run_that_stood_there_before_is_a_repetition() -> None:
    ids = np.array([[5, *range(10), *range(10), 1, 2]])
    found = repetitions(ids, start=1)[0]
    assert np.flatnonzero(found).tolist() == [18, 19, 20]
    assert not repetitions(ids, start=11).any()


def step_through(objective: MutualLearning, lengths: list[int], source: Texts) -> list[float]:
    optimizers = Optimizers((objective.trained, RATES))
    passes = Inline(objective, is_compiled=False)
    losses = []
    for length in lengths:
        losses.append(passes.accumulate(torch.from_numpy(source.next(4, length)), 4, 0.0))
        optimizers.step(1.0, 0.9)
    return losses


def test_together_both_come_closer() -> None:
    objective = MutualLearning(Pair(random_model(SMALL), random_model(GROUPED)))
    losses = step_through(objective, [512] * 15, texts())
    assert 0 < losses[-1] < 0.8 * losses[0]


def test_the_target_unlearns_to_repeat_itself() -> None:
    pair = Pair(random_model(SMALL), random_model(GROUPED))
    source = texts()
    ids = torch.from_numpy(source.next(8, WRITTEN))[:, :-1]

    def sure() -> float:
        with torch.no_grad():
            return float(pair.target(ids)[:, 170:-1].softmax(-1)[..., 7].mean())

    step_through(MutualLearning(pair), [512] * 2, source)
    pair.target.embedding.data[7] *= 3  # the token that it repeats is likely now
    before = sure()
    step_through(MutualLearning(pair), [WRITTEN] * 10, source)
    assert sure() < 0.5 * before
