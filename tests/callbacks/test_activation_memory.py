"""What the memory holds, that it pulls a new fit back to it, and that it leaves nothing behind on the module."""

import io
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional

from case_lightning.callbacks import ActivationMemory, KeyProtection
from case_lightning.method.activation import dequantize
from tests.callbacks.tiny_modules import D_IN, D_OUT, HIDDEN, TwoLayers, draw_batch, fit, fit_again, load, make_trainer

OLD, NEW = draw_batch(0), draw_batch(1)
INPUT_BYTES, OUTPUT_BYTES = D_IN + 4, HIDDEN + 4  # of a row of "hidden": a byte a value and a float32 scale


def remember(memory: ActivationMemory, *seeds: int, module: TwoLayers | None = None) -> TwoLayers:
    """One fit a seed, on a batch of its own."""
    module = module or TwoLayers()
    trainer = make_trainer(memory, max_epochs=0)
    for seed in seeds:
        fit_again(trainer, module, [draw_batch(seed)])
    return module


def kept_inputs(memory: ActivationMemory) -> Tensor:
    return dequantize(memory.rows["inputs"], memory.rows["input_scales"])


@pytest.mark.parametrize(("size", "fits", "kept"), [(3, 1, 3), (3, 4, 3), (64, 4, 20), (0, 2, 0), (1, 2, 1)])
def test_no_more_rows_than_its_size_are_kept(size: int, fits: int, kept: int) -> None:
    memory = ActivationMemory("hidden", size=size)
    remember(memory, *range(fits))
    assert len(memory) == kept
    assert memory.seen == (5 * fits if size else 0)


def test_rows_are_eight_bits_with_a_scale() -> None:
    memory = ActivationMemory("hidden")
    remember(memory, 0)
    assert memory.rows["inputs"].dtype == memory.rows["outputs"].dtype == torch.int8
    assert sum(value.nbytes for value in memory.rows.values()) == 5 * (INPUT_BYTES + OUTPUT_BYTES)
    assert all(value.device.type == "cpu" for value in memory.rows.values())


def test_rows_are_the_inputs_of_the_last_batch_and_the_answers_at_the_end_of_the_fit() -> None:
    memory, module = ActivationMemory("hidden"), TwoLayers()
    fit(module, [OLD, NEW], memory)
    torch.testing.assert_close(kept_inputs(memory), NEW[0], atol=0.02, rtol=0)
    answers = dequantize(memory.rows["outputs"], memory.rows["output_scales"])
    error = (
        answers - module.hidden(kept_inputs(memory)).detach()
    ).abs()  # to what is kept, not what it was rounded from
    assert (error <= 0.5001 * memory.rows["output_scales"]).all()


class Validated(TwoLayers):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


def test_validation_is_not_remembered() -> None:
    memory = ActivationMemory("hidden")
    make_trainer(memory, num_sanity_val_steps=1).fit(Validated(), load([OLD]), load([NEW]))
    torch.testing.assert_close(kept_inputs(memory), OLD[0], atol=0.02, rtol=0)


class Sequences(TwoLayers):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch).square().mean()


def test_sequences_of_different_lengths_are_kept_position_by_position() -> None:
    memory, module = ActivationMemory("hidden", size=100), Sequences()
    trainer = make_trainer(memory, max_epochs=0)
    for seq in (3, 7):
        fit_again(trainer, module, [torch.ones(2, seq, D_IN)])
    assert memory.rows["inputs"].shape == (20, D_IN)


def reservoir_naively(size: int, n_rows: int, seed: int) -> list[int]:
    """Which of a stream's rows stay: the first `size`, then row i with the chance size/i, in a random one's place."""
    generator = torch.Generator().manual_seed(seed)
    kept: list[int] = []
    for row in range(n_rows):
        if len(kept) < size:
            kept.append(row)
        elif (place := int(torch.randint(row + 1, (), generator=generator))) < size:
            kept[place] = row
    return kept


class Numbered(ActivationMemory):
    """Rows with their number in the stream beside them."""

    def capture(self, pl_module: Any) -> dict[str, Tensor]:
        rows = super().capture(pl_module)
        return rows | {"numbers": torch.arange(self.seen, self.seen + len(rows["inputs"]))}


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_a_reservoir_sample_of_all_seen(seed: int) -> None:
    memory = Numbered("hidden", size=7, seed=seed)
    remember(memory, *range(6))
    numbers = memory.rows["numbers"].tolist()
    assert numbers == reservoir_naively(7, 30, seed)
    stream = torch.cat([draw_batch(fit_seed)[0] for fit_seed in range(6)])
    torch.testing.assert_close(kept_inputs(memory), stream[numbers], atol=0.02, rtol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_nothing_has_diverged_right_after_recording(temperature: float) -> None:
    memory = ActivationMemory("hidden", weight=1.0, temperature=temperature)
    module = remember(memory, 0)
    assert 0 <= memory.weigh(module).item() + 1e-7 < 1e-4
    with torch.no_grad():
        module.hidden.weight.add_(0.5 * draw_batch(3, HIDDEN)[0])
    assert memory.weigh(module) > 1e-3


def test_the_term_is_the_weighted_divergence_of_the_rows() -> None:
    memory = ActivationMemory("hidden", weight=2.5, temperature=2.0)
    module = remember(memory, 0, 1, module=TwoLayers())
    with torch.no_grad():
        module.hidden.bias.add_(torch.linspace(-1, 1, HIDDEN))
    old = torch.log_softmax(dequantize(memory.rows["outputs"], memory.rows["output_scales"]) / 2, -1)
    new = torch.log_softmax(module.hidden(kept_inputs(memory)) / 2, -1)
    expected = 2.5 * (old.exp() * (old - new)).sum() / len(memory)
    torch.testing.assert_close(memory.weigh(module), expected)


class NoLossOfItsOwn(TwoLayers):
    """All the gradient that its parameters have is the memory's."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0]).sum() * 0


class CompareGradient(Callback):
    """Placed after the memory."""

    def __init__(self, memory: ActivationMemory) -> None:
        self.memory = memory
        self.steps = 0

    def on_before_optimizer_step(self, trainer: Any, pl_module: TwoLayers, optimizer: Any) -> None:
        (expected,) = torch.autograd.grad(self.memory.weigh(pl_module), [pl_module.hidden.weight])
        torch.testing.assert_close(pl_module.hidden.weight.grad, expected)
        assert (expected != 0).any()
        self.steps += 1


class Noisy(TwoLayers):
    """A module that works otherwise while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(self.hidden, nn.BatchNorm1d(HIDDEN), nn.Dropout(0.5))


def test_rows_pass_a_module_as_at_inference() -> None:
    """They meet no dropout, and normalization layers learn nothing of them."""
    module, memory = Noisy(), ActivationMemory("hidden")
    trainer = make_trainer(memory, max_epochs=0)
    for count, batch in enumerate((OLD, NEW), start=1):
        fit_again(trainer, module, [batch])
        assert module.hidden[1].num_batches_tracked == count
        assert module.hidden[2].training
    remember(other := ActivationMemory("hidden"), 0, module=module)
    assert other.weigh(module).item() < 1e-5


@pytest.mark.parametrize("accumulated", [1, 2])
def test_each_step_has_its_gradient_once(accumulated: int) -> None:
    memory = ActivationMemory("hidden", weight=3.0)
    trained = remember(memory, 0)
    module, compare = NoLossOfItsOwn(seed=1), CompareGradient(memory)
    assert not torch.equal(module.hidden.weight, trained.hidden.weight)
    fit(module, [NEW] * 4, memory, compare, accumulate_grad_batches=accumulated)
    assert compare.steps == 4 / accumulated


def drift(weight: float) -> float:
    """How far a fit on new data carries the old rows' softmax."""
    module = TwoLayers(lambda parameters: torch.optim.Adam(parameters, lr=0.02))
    memory = ActivationMemory("hidden", weight=weight)
    trainer = fit(module, [OLD] * 20, memory)
    before = functional.softmax(module.hidden(OLD[0]), -1).detach()
    fit_again(trainer, module, [NEW] * 30)
    return (functional.softmax(module.hidden(OLD[0]), -1) - before).abs().mean().item()


def test_a_fit_with_it_ends_nearer_to_the_old_outputs() -> None:
    free, held, firmly_held = (drift(weight) for weight in (0.0, 1.0, 30.0))
    assert firmly_held < held < free
    assert firmly_held < 0.3 * free


class Counted(ActivationMemory):
    recomputed = 0

    def recompute(self, pl_module: Any, rows: dict[str, Tensor]) -> Tensor:
        self.recomputed += 1
        return super().recompute(pl_module, rows)


def test_a_weight_of_zero_is_as_if_there_were_no_memory() -> None:
    with_it, without = TwoLayers(), TwoLayers()
    memory = Counted("hidden", weight=0.0)
    remember(memory, 0, 1, module=with_it)
    for seed in (0, 1):
        fit(without, [draw_batch(seed)])
    assert torch.equal(with_it.hidden.weight, without.hidden.weight)
    assert memory.recomputed == 2  # once a fit, to record


class PassedBy(TwoLayers):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.idle.sum()


def test_a_fit_that_does_not_run_the_module_records_nothing() -> None:
    memory = ActivationMemory("hidden")
    remember(memory, 0)
    fit(PassedBy(), [NEW], memory)
    assert memory.seen == 5


def test_a_fit_that_does_not_train_the_module_goes_on() -> None:
    memory = ActivationMemory("hidden")
    module = remember(memory, 0)
    module.hidden.requires_grad_(False)
    fit(module, [NEW], memory)
    assert len(memory) == 10


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_lower_precision(precision: Any) -> None:
    memory, module = ActivationMemory("hidden"), TwoLayers()
    trainer = fit(module, [OLD] * 2, memory, precision=precision)
    fit_again(trainer, module, [NEW] * 2)
    assert memory.rows["inputs"].shape == (10, D_IN)


def test_a_module_of_a_precision_of_its_own() -> None:
    class Half(TwoLayers):
        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.hidden(inputs.bfloat16()).float().tanh())

    module = Half()
    module.hidden.bfloat16()
    memory = ActivationMemory("hidden")
    trainer = fit(module, [OLD], memory)
    fit_again(trainer, module, [NEW])
    assert len(memory) == 10


def hooks(module: nn.Module) -> list[Any]:
    return [hook for part in module.modules() for hook in part._forward_pre_hooks.values()]


def test_no_hook_is_left_at_the_end_of_a_fit() -> None:
    memory = ActivationMemory("hidden")
    module = remember(memory, 0, 1)
    assert hooks(module) == []
    module(NEW[0] * 100)  # outside of a fit nothing is noted
    assert kept_inputs(memory).abs().max() < 10


@pytest.mark.parametrize(
    "callback", [ActivationMemory("hidden"), KeyProtection(["hidden"])], ids=lambda one: type(one).__name__
)
def test_no_hook_is_left_after_a_fit_with_nothing_to_do(callback: Callback) -> None:
    module = TwoLayers()
    trainer = fit(module, [OLD], callback)
    for _ in range(2):
        trainer.fit(module, load([NEW]))  # its epochs are over
        assert hooks(module) == []


class Failing(TwoLayers):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self(batch[0])
        assert len(hooks(self)) == 1
        raise ArithmeticError


def test_no_hook_is_left_after_a_fit_that_failed() -> None:
    memory, module = ActivationMemory("hidden"), Failing()
    with pytest.raises(ArithmeticError):
        fit(module, [OLD], memory)
    assert hooks(module) == []
    assert len(memory) == 0


def test_rows_are_taken_before_the_module_is_moved_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = ActivationMemory("hidden")
    trainer = make_trainer(memory)
    kept_at_teardown = []
    monkeypatch.setattr(trainer.strategy, "teardown", lambda: kept_at_teardown.append(len(memory)))
    trainer.fit(TwoLayers(), load([OLD]))
    assert kept_at_teardown == [5]


def test_a_restart_goes_on_as_if_there_had_been_none() -> None:
    whole, first, second = (ActivationMemory("hidden", size=6, weight=5.0) for _ in range(3))
    modules = [remember(memory, 0, 1) for memory in (whole, first)]
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    second.load_state_dict(torch.load(saved, weights_only=True))
    for module, memory in zip(modules, (whole, second), strict=True):
        remember(memory, 2, 3, module=module)
    assert second.seen == whole.seen == 20
    assert second.rows.keys() == whole.rows.keys()
    assert all(torch.equal(second.rows[name], whole.rows[name]) for name in whole.rows)
    assert torch.equal(modules[0].hidden.weight, modules[1].hidden.weight)


def test_two_modules_can_be_held_at_once() -> None:
    hidden, head = ActivationMemory("hidden"), ActivationMemory("head")
    fit(TwoLayers(), [OLD], hidden, head)
    assert hidden.rows["outputs"].shape == (5, HIDDEN)
    assert head.rows["outputs"].shape == (5, D_OUT)


class OfItsOwnChoice(ActivationMemory):
    """Names no module: what it keeps and how it is recomputed are its own."""

    def capture(self, pl_module: Any) -> dict[str, Tensor]:
        return {"inputs": torch.eye(D_IN), "signs": torch.tensor([1.0, -1.0] * (D_IN // 2))}

    def recompute(self, pl_module: Any, rows: dict[str, Tensor]) -> Tensor:
        return pl_module(rows["inputs"]) * rows["signs"][:, None]


def test_capture_and_recompute_can_be_overridden() -> None:
    memory = OfItsOwnChoice(size=4)
    module = remember(memory, 0, 1)
    assert hooks(module) == []
    assert memory.rows["outputs"].shape == (4, D_OUT)
    assert set(memory.rows["signs"].tolist()) <= {1.0, -1.0}


def test_without_a_module_the_way_out_is_named() -> None:
    with pytest.raises(
        ValueError, match="name of the submodule to hold as `module`, or override capture and recompute"
    ):
        fit(TwoLayers(), [OLD], ActivationMemory())


@pytest.mark.parametrize(
    "settings", [{"size": -1}, {"weight": -0.1}, {"temperature": 0.0}, {"temperature": -1.0}], ids=str
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"found .*{next(iter(settings.values()))}"):
        ActivationMemory("hidden", **settings)


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"'hiden' is no submodule of TwoLayers; it has hidden, head"):
        fit(TwoLayers(), [OLD], ActivationMemory("hiden"))


class CalledByKeyword(TwoLayers):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.hidden(input=inputs).tanh())


def test_a_module_may_be_called_by_keyword() -> None:
    memories, protections = (
        [ActivationMemory("hidden") for _ in range(2)],
        [KeyProtection(["hidden"]) for _ in range(2)],
    )
    for module, memory, protection in zip((TwoLayers(), CalledByKeyword()), memories, protections, strict=True):
        fit(module, [OLD], memory, protection)
    assert torch.equal(memories[0].rows["inputs"], memories[1].rows["inputs"])
    moments = [one.moments["hidden.weight"].total for one in protections]
    assert moments[0].any()
    assert torch.equal(*moments)
