"""What all metrics owe: the naive value, whatever the batching, the dtype around them, a pickle or a reset."""

import doctest
import importlib
import pickle
import pkgutil
from collections.abc import Iterator

import matplotlib as mpl
import pytest
import torch
from matplotlib import pyplot
from torch import nn
from torchmetrics import MetricCollection

import case_lightning.metrics
from case_lightning.metrics import (
    BitIdentity,
    ConflictScores,
    Generalization,
    Locality,
    Reliability,
    SensitivityDistribution,
    SubspaceGrowth,
    TargetPerplexity,
)
from case_lightning.metrics.edit_metric import EditMetric
from tests.metrics import naive
from tests.metrics.cases import CASES, Case

by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
one_of_each = pytest.mark.parametrize(
    "case", {case.build: case for case in reversed(CASES)}.values(), ids=lambda case: case.name
)
EMPTY = {"retention": (0, 2), "conflict": (0, 0), "growth": (0, 2)}
MODULES = [module.name for module in pkgutil.iter_modules(case_lightning.metrics.__path__)]


def check_value(value: torch.Tensor, case: Case) -> None:
    assert value.dtype == (torch.float64 if "perplexity" in case.reference else torch.float32)
    expected = torch.tensor(getattr(naive, case.reference)(case.batches), dtype=value.dtype)
    expected = expected.squeeze() if expected.numel() == 1 else expected  # as torchmetrics does
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


def feed(metric: EditMetric, case: Case) -> EditMetric:
    for batch in case.batches:
        metric.update(**batch)
    return metric


@pytest.fixture
def _no_window() -> Iterator[None]:
    backend = mpl.get_backend()
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")
    pyplot.switch_backend(backend)


@by_name
def test_agrees_with_the_naive_value(case: Case) -> None:
    check_value(feed(case.build(), case).compute(), case)


@by_name
def test_the_order_of_batches_does_not_matter(case: Case) -> None:
    check_value(feed(case.build(), case._replace(batches=case.batches[::-1])).compute(), case)


@by_name
def test_forward_returns_the_value_of_its_batch_and_accumulates(case: Case) -> None:
    metric = case.build()
    for batch in case.batches:
        check_value(metric(**batch), case._replace(batches=[batch]))
    check_value(metric.compute(), case)


@by_name
def test_a_pickle_goes_on_where_the_metric_stopped(case: Case) -> None:
    metric = case.build()
    metric.update(**case.batches[0])
    metric = pickle.loads(pickle.dumps(metric))  # noqa: S301
    check_value(feed(metric, case._replace(batches=case.batches[1:])).compute(), case)


@one_of_each
def test_reset_forgets_what_was_seen_even_under_inference_mode(case: Case) -> None:
    metric = feed(case.build(), case)
    with torch.inference_mode():
        metric.reset()
    check_value(feed(metric, case).compute(), case)


@one_of_each
def test_without_data_the_value_is_nan_or_an_empty_curve(case: Case) -> None:
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        value = case.build().compute()
    if case.reference in EMPTY:
        assert value.shape == EMPTY[case.reference]
    elif case.reference == "sensitivity":
        assert not value.any()
    else:
        assert value.isnan()


@pytest.mark.parametrize("cast", ["to", "half", "type"])
@by_name
def test_casting_the_module_that_holds_it_costs_no_digit(case: Case, cast: str) -> None:
    """A bfloat16 sum of shares would stop at 256; 1000 rows are summed in one of the cases."""
    holder = nn.ModuleList([case.build()])
    half = feed(holder[0], case._replace(batches=case.batches[:1]))
    holder.half() if cast == "half" else getattr(holder, cast)(torch.bfloat16)
    check_value(feed(half, case._replace(batches=case.batches[1:])).compute(), case)


@one_of_each
def test_the_default_dtype_does_not_matter(case: Case) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        value = feed(case.build(), case).compute()
    finally:
        torch.set_default_dtype(before)
    check_value(value, case)


@one_of_each
def test_states_move_between_devices_and_follow_set_dtype(case: Case) -> None:
    metric = feed(case.build(), case).set_dtype(torch.float64)
    states = [
        state for value in metric.metric_state.values() for state in (value if isinstance(value, list) else [value])
    ]
    assert {state.dtype for state in states} <= {torch.float64, torch.int64}
    assert metric.to("meta").device.type == "meta"


@one_of_each
@pytest.mark.usefixtures("_no_window")
def test_plots_its_value(case: Case) -> None:
    metric = feed(case.build(), case)
    figure, axis = metric.plot()
    assert figure is not None
    lower, upper = axis.get_ylim()
    assert metric.plot_lower_bound is None or lower < metric.plot_lower_bound
    assert metric.plot_upper_bound is None or upper > metric.plot_upper_bound
    assert metric.plot(metric.compute(), ax=axis)[1] is axis


@pytest.mark.usefixtures("_no_window")
def test_plots_show_what_was_computed() -> None:
    scores = ConflictScores()
    scores.update(1, [0.5])
    _, axis = scores.plot()
    assert axis.images[0].get_array().tolist() == [[0.5]]
    scores.update(2, [-1.0, 0.25])
    _, axis = scores.plot()
    assert axis.images[0].get_array().filled(9).tolist() == [[0.5, -1.0], [9, 0.25]]
    distribution = SensitivityDistribution()
    distribution.update(torch.tensor([4.0, 1.0, 1.0, 0.0]), torch.tensor([True, False, False, False]))
    _, axis = distribution.plot()
    tuned, every = (patch.get_data().values for patch in axis.patches)
    assert (tuned.sum(), every.sum()) == (1, 4)
    assert axis.lines[0].get_xdata()[0] == pytest.approx(4 / 1.5)


@pytest.mark.parametrize(
    ("metric", "values", "message"),
    [
        (ConflictScores, (-1, [0.5]), "`edit` is -1; expected the edit's place in the stream"),
        (ConflictScores, (1, [0.5, 2.0]), "expected cosines from -1 to 1"),
        (SubspaceGrowth, (1, -1), "`edit` and `subspace` are 1 and -1; expected 0 or more"),
    ],
)
def test_what_a_run_cannot_have_done_is_refused(
    metric: type[EditMetric], values: tuple[object, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric().update(*values)


@pytest.mark.usefixtures("_no_window")
def test_plots_a_series_of_values() -> None:
    _, axis = Reliability().plot([torch.tensor(0.5), torch.tensor(0.25)])
    assert axis.lines[0].get_ydata().tolist() == [0.5, 0.25]
    assert axis.get_ylabel() == "Reliability"


def test_which_direction_is_better() -> None:
    others = ("perplexity", "growth", "sensitivity")
    assert {case.build().higher_is_better for case in CASES if not case.name.startswith(others)} == {True}
    assert TargetPerplexity.higher_is_better is False
    assert SubspaceGrowth.higher_is_better is False
    assert SensitivityDistribution.higher_is_better is None
    assert not any(case.build().full_state_update for case in CASES)


def test_a_collection_keeps_apart_what_agrees_on_the_first_batch_only() -> None:
    """A MetricCollection merges metrics whose states are equal after the first update."""
    collection = MetricCollection(
        {
            "reliability": Reliability(),
            "exact": Reliability(exact=True),
            "generalization": Generalization(),
            "locality": Locality(),
            "identical": BitIdentity(),
        }
    )
    ids, labels, logits = torch.tensor([[1, 2]]), torch.tensor([[1, 2]]), torch.zeros(1, 2, 4)
    for predictions, edited_logits in ((ids, logits), (ids + torch.tensor([0, 1]), logits + 1)):
        collection.update(
            predictions=predictions,
            labels=labels,
            edited=ids,
            unedited=labels,
            labels_mask=labels != -100,
            edited_logits=edited_logits,
            unedited_logits=logits,
        )
    values = {name: value.item() for name, value in collection.compute().items()}
    assert values == {"reliability": 0.75, "exact": 0.5, "generalization": 0.75, "locality": 1.0, "identical": 0.5}


def test_every_public_name_is_exported() -> None:
    public = {case.build().__class__.__name__ for case in CASES} | {"IGNORE_INDEX", "TokenAccuracy"}
    assert set(case_lightning.metrics.__all__) == public


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_hold(name: str) -> None:
    module = importlib.import_module(f"case_lightning.metrics.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted or name in ("axes", "edit_metric", "rows")
