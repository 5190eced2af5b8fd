"""GRACE's codebook against a naive restatement of its algorithm, and what it is known for."""

import math

import pytest
import torch
from torch import Tensor

from case_lightning.base import Base
from case_lightning.baselines import Grace, GraceSettings
from case_lightning.baselines.grace import NONE, Codebook, replace_tokens
from case_lightning.data import Edit
from tests.baselines.cases import Untouched, answer, ask, nll
from tests.editing.tiny_run import make_edits

EDITS = make_edits(4)
SHORT = EDITS[::2]  # targets of one token, which the tiny model can learn from one value
CPU = torch.device("cpu")


def label(*tokens: int) -> Tensor:
    return torch.tensor(tokens)


class NaiveCodebook:
    """Algorithm 1 of the paper over lists, in plain numbers."""

    def __init__(self) -> None:
        self.entries: list[list] = []  # key, radius, label

    def nearest(self, query: list[float]) -> tuple[float, int]:
        return min((math.dist(entry[0], query), index) for index, entry in enumerate(self.entries))

    def add(self, query: list[float], wanted: list[int], radius: float) -> None:
        if self.entries:
            distance, index = self.nearest(query)
            entry = self.entries[index]
            if distance <= entry[1] + radius:
                if entry[2] == wanted:
                    entry[1] = max(entry[1], distance)
                    return
                entry[1] = radius = distance / 2
        self.entries.append([query, radius, wanted])


@pytest.mark.parametrize("seed", range(5))
def test_the_codebook_is_that_of_the_published_algorithm(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codebook, naive = Codebook(2, CPU), NaiveCodebook()
    for _ in range(60):
        query = 3 * torch.rand(2, generator=generator)
        wanted = int(torch.randint(2, (1,), generator=generator))
        codebook.add(query, label(wanted), 0.5)
        naive.add(query.tolist(), [wanted], 0.5)
    assert 5 < len(naive.entries) < 60
    assert codebook.keys.tolist() == [entry[0] for entry in naive.entries]
    assert [one.tolist() for one in codebook.labels] == [entry[2] for entry in naive.entries]
    assert codebook.radii.tolist() == pytest.approx([entry[1] for entry in naive.entries], rel=1e-4)
    for query in 3 * torch.rand(50, 2, generator=generator):
        distance, nearest = naive.nearest(query.tolist())
        assert codebook.find(query) == (nearest if distance <= naive.entries[nearest][1] else NONE)


def test_a_split_leaves_the_middle_to_neither() -> None:
    codebook = Codebook(1, CPU)
    codebook.add(torch.tensor([0.0]), label(1), 1.0)
    assert codebook.add(torch.tensor([1.0]), label(2), 1.0) == 1
    found = [codebook.find(torch.tensor([place])) for place in (0.49, 0.5, 0.51)]
    assert found == [0, NONE, 1]


def test_a_key_met_again_takes_the_new_label() -> None:
    codebook = Codebook(1, CPU)
    for wanted in (label(1), label(2)):
        assert codebook.add(torch.tensor([3.0]), wanted, 1.0) == 0
    assert codebook.labels[0].tolist() == [2]
    assert codebook.find(torch.tensor([3.9])) == 0


def test_only_the_last_token_of_the_prompt_is_replaced() -> None:
    y, values = torch.zeros(3, 4, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    change = replace_tokens(torch.tensor([0, 2]), torch.tensor([3, 4]), values)
    changed = change(y, y, 0)
    assert changed[0, 3].tolist() == [1.0, 2.0]
    assert changed.count_nonzero() == 2
    after = change(y[:, :1], y[:, :1], 4)
    assert after[2, 0].tolist() == [3.0, 4.0]
    assert after.count_nonzero() == 2
    assert not change(y[:, :1], y[:, :1], 5).any()


def test_a_value_is_what_plain_training_finds(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("case_lightning.baselines.trained.choose_dtype", lambda _, model: model.dtype)
    settings = GraceSettings(steps=4, learning_rate=0.1, enough=0)
    method = Grace(base, settings=settings)
    method.edit(EDITS[:1])
    question = ask(base, EDITS[0].prompt, EDITS[0].target)
    value = torch.rand(1, base.architecture.d_out, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([value], lr=settings.learning_rate)
    projection = base.model.get_submodule(base.architecture.down_projections[method.layer])

    def put(_, __, output: Tensor) -> Tensor:
        return torch.cat([output[:, : question.n_prompt - 1], value[None], output[:, question.n_prompt :]], dim=1)

    handle = projection.register_forward_hook(put)
    for _ in range(settings.steps):
        optimizer.zero_grad()
        logits = base.model(input_ids=question.tokens[None]).logits[0]
        torch.nn.functional.cross_entropy(logits[question.columns], question.labels).backward()
        optimizer.step()
    handle.remove()
    torch.testing.assert_close(method.values, value.detach(), rtol=1e-3, atol=1e-4)


def test_edits_of_a_batch_do_not_touch_one_another(base: Base) -> None:
    settings = GraceSettings(steps=5, learning_rate=0.1, enough=0)
    together, apart = Grace(base, settings=settings), Grace(base, settings=settings)
    together.edit(EDITS)
    for edit in EDITS:
        apart.edit([edit])
    assert torch.equal(together.codebook.keys, apart.codebook.keys)
    torch.testing.assert_close(together.values, apart.values, rtol=1e-3, atol=1e-3)


def test_what_is_in_no_radius_is_left_alone_to_the_bit(base: Base) -> None:
    """High reliability, next to no generalization: a rephrase is outside a small radius."""
    method = Grace(base, settings=GraceSettings(layer=1, radius=1e-3, steps=30, learning_rate=0.5))
    method.edit(SHORT)
    prompts = [ask(base, edit.prompt, edit.target) for edit in SHORT]
    rephrases = [ask(base, edit.rephrases[0], edit.target) for edit in SHORT]
    before, after = answer(Untouched(base), prompts), answer(method, prompts)
    for question, one, other in zip(prompts, before, after, strict=True):
        assert nll(other, question) < 0.5 * nll(one, question)
    pairs = zip(answer(method, rephrases), answer(Untouched(base), rephrases), strict=True)
    assert all(torch.equal(edited, plain) for edited, plain in pairs)


def test_a_wide_radius_covers_rephrases(base: Base) -> None:
    method = Grace(base, settings=GraceSettings(layer=1, radius=1e3, steps=30, learning_rate=0.5))
    method.edit(EDITS[:1])
    question = ask(base, EDITS[0].rephrases[0], EDITS[0].target)
    assert nll(answer(method, [question])[0], question) < 0.5 * nll(answer(Untouched(base), [question])[0], question)


def test_an_edit_of_the_same_prompt_replaces_the_earlier(base: Base) -> None:
    method = Grace(base, settings=GraceSettings(layer=1, steps=30, learning_rate=0.5))
    method.edit(EDITS[:1])
    newer = Edit("newer", EDITS[0].prompt, "minister")
    method.edit([newer])
    question = ask(base, newer.prompt, newer.target)
    assert len(method.codebook.labels) == 1
    assert nll(answer(method, [question])[0], question) < 0.5 * nll(answer(Untouched(base), [question])[0], question)
