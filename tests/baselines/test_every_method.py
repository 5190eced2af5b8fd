"""What every method of editing has to do, whatever it is; a method of its own file is tested there on its formula."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from case_lightning.base import Base
from case_lightning.baselines import METHODS
from tests.baselines.cases import CASES, Untouched, answer, ask, build, generate, nll
from tests.editing.tiny_run import load_tiny, make_edits

EDITS = make_edits(4)
UNRELATED = ["Who founded the newspaper?", "The score of the game was", "game"]
PROMPTS = [edit.prompt for edit in EDITS] + UNRELATED
every_method = pytest.mark.parametrize("name", CASES)


def edit_two_batches(name: str, base: Base, seed: int = 0):
    method = build(name, base, seed)
    method.edit(EDITS[:2])
    method.edit(EDITS[2:])
    return method


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_every_registered_method_has_a_case() -> None:
    assert set(METHODS.values()) == {kind for kind, _ in CASES.values()}


@every_method
def test_an_edit_makes_its_target_likelier(name: str, base: Base) -> None:
    questions = [ask(base, edit.prompt, edit.target) for edit in EDITS]
    before = answer(Untouched(base), questions)
    method = build(name, base)
    method.edit(EDITS)
    after = answer(method, questions)
    for question, one, other in zip(questions, before, after, strict=True):
        assert nll(other, question) < nll(one, question) - 0.1


@every_method
def test_optimizer_steps_are_counted(name: str, base: Base) -> None:
    method = build(name, base)
    assert method.n_steps == 0
    method.edit(EDITS[:2])
    assert 0 <= method.n_steps <= 200


@every_method
def test_without_edits_it_answers_as_the_base_model(name: str, base: Base) -> None:
    questions = [ask(base, prompt) for prompt in PROMPTS]
    plain = answer(Untouched(base), questions)
    assert_same(answer(build(name, base), questions), plain)


@every_method
def test_unedited_answers_are_bit_identical_to_those_of_the_untouched_model(name: str, base: Base) -> None:
    questions = [ask(base, prompt) for prompt in PROMPTS]
    plain = answer(Untouched(base), questions)
    plain_texts, plain_logits = generate(Untouched(base), PROMPTS, 3)
    method = edit_two_batches(name, base)
    answer(method, questions)
    assert_same(answer(method, questions, edited=False), plain)
    texts, logits = generate(method, PROMPTS, 3, edited=False)
    assert_same(logits, plain_logits)
    assert_same([text.tokens for text in texts], [text.tokens for text in plain_texts])


@every_method
def test_what_was_saved_answers_the_same_once_loaded(name: str, base: Base, tiny_folder: Path, tmp_path: Path) -> None:
    questions = [ask(base, prompt) for prompt in PROMPTS]
    method = edit_two_batches(name, base)
    expected = answer(method, questions)
    method.save(tmp_path / "saved")
    fresh = build(name, load_tiny(tiny_folder), seed=1)
    fresh.load(tmp_path / "saved")
    assert_same(answer(fresh, questions), expected)


@every_method
def test_a_loaded_method_edits_on(name: str, base: Base, tiny_folder: Path, tmp_path: Path) -> None:
    method = build(name, base)
    method.edit(EDITS[:2])
    method.save(tmp_path / "saved")
    fresh = build(name, load_tiny(tiny_folder))
    fresh.load(tmp_path / "saved")
    questions = [ask(base, edit.prompt, edit.target) for edit in EDITS[2:]]
    before = answer(fresh, questions)
    fresh.edit(EDITS[2:])
    fresh.edit(EDITS[2:])  # in the place of themselves
    for question, one, other in zip(questions, before, answer(fresh, questions), strict=True):
        assert nll(other, question) < nll(one, question)


@every_method
def test_a_state_that_was_kept_is_not_changed_by_further_edits(name: str, base: Base) -> None:
    method = build(name, base)
    method.edit(EDITS[:2])
    kept = method.state()
    before = {one: value.clone() for one, value in kept.items()}
    method.edit(EDITS[2:4])
    assert all(torch.equal(kept[one], value) for one, value in before.items())


@every_method
def test_nothing_saved_is_an_error(name: str, base: Base, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        build(name, base).load(tmp_path)


@every_method
def test_rows_padded_left_in_generation_agree_with_rows_padded_right(name: str, base: Base) -> None:
    method = edit_two_batches(name, base)
    texts, logits = generate(method, PROMPTS, 3)
    assert_close(answer(method, texts), logits)


@every_method
def test_an_answer_does_not_depend_on_the_neighbours(name: str, base: Base) -> None:
    questions = [ask(base, prompt) for prompt in PROMPTS]
    method = edit_two_batches(name, base)
    together = answer(method, questions)
    alone = [answer(method, [question])[0] for question in questions]
    assert_close(together, alone)


@every_method
def test_the_same_seed_gives_the_same_edits(name: str, base: Base, tiny_folder: Path) -> None:
    questions = [ask(base, prompt) for prompt in PROMPTS]
    first = answer(edit_two_batches(name, base), questions)
    torch.manual_seed(1)
    assert_same(answer(edit_two_batches(name, load_tiny(tiny_folder)), questions), first)
