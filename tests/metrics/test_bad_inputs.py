"""Wrong inputs are named when they arrive: the value, what was expected, what to pass instead."""

import re
from typing import Any

import pytest
import torch

from case_lightning.errors import ConfigError
from case_lightning.metrics import BitIdentity, Locality, Reliability, Retention, TargetPerplexity
from case_lightning.metrics.edit_metric import EditMetric

IDS = torch.zeros(2, 3, dtype=torch.long)
LOGITS = torch.zeros(2, 3, 4)
OUTSIDE = torch.tensor([[0, 1, 2], [-100, 4, 0]])
NEGATIVE = torch.tensor([[0, -1, 2], [-100, 3, 0]])

CASES: list[tuple[EditMetric, tuple[Any, ...], type[Exception], str]] = [
    (Reliability(), (LOGITS, IDS), ValueError, "`predictions` is torch.float32 of shape (2, 3, 4)"),
    (Reliability(), (LOGITS, IDS), ValueError, "pass `logits.argmax(-1)`"),
    (Reliability(), (IDS, IDS.float()), ValueError, "`labels` is torch.float32"),
    (Reliability(), (IDS, IDS[0]), ValueError, "`labels` is torch.int64 of shape (3,)"),
    (Reliability(), (IDS, IDS[:, 1:]), ValueError, "`labels` has shape (2, 2) and `predictions` (2, 3)"),
    (Locality(), (IDS, IDS[:1], IDS == 0), ValueError, "`unedited` has shape (1, 3) and `edited` (2, 3)"),
    (Locality(), (IDS, IDS, IDS), ValueError, "pass `labels != -100`"),
    (Locality(), (IDS, IDS, IDS[:, 1:] == 0), ValueError, "`labels_mask` is torch.bool of shape (2, 2)"),
    (BitIdentity(), (LOGITS, LOGITS[:1]), ValueError, "`unedited_logits` (1, 3, 4)"),
    (BitIdentity(), (LOGITS[0, 0], LOGITS[0, 0]), ValueError, "expected one shape (batch, ...)"),
    (BitIdentity(), (LOGITS, LOGITS.bfloat16()), ValueError, "`unedited_logits` torch.bfloat16"),
    (TargetPerplexity(), (LOGITS, IDS.float()), ValueError, "`labels` is torch.float32"),
    (TargetPerplexity(), (LOGITS, IDS[:, 1:]), ValueError, "expected floating point of shape (2, 2, 'vocab')"),
    (TargetPerplexity(), (IDS, IDS), ValueError, "`logits` is torch.int64 of shape (2, 3)"),
    (TargetPerplexity(), (LOGITS.long(), IDS), ValueError, "`logits` is torch.int64 of shape (2, 3, 4)"),
    (
        TargetPerplexity(),
        (LOGITS, OUTSIDE),
        ValueError,
        "`labels` holds 4 at row 1, position 1; expected an id from 0 to 3",
    ),
    (TargetPerplexity(), (LOGITS, NEGATIVE), ValueError, "`labels` holds -1 at row 0, position 1"),
    (Retention(), (-1, 0.5), ValueError, "`n_edits` is -1"),
    (Retention(), (10, 98.0), ValueError, "`value` is 98.0 at 10 edits"),
    (Retention(), (10, -0.1), ValueError, "`value` is -0.1 at 10 edits"),
    (Retention(), (1.5, 0.5), TypeError, "cannot be interpreted as an integer"),
]


@pytest.mark.parametrize(("metric", "inputs", "error", "message"), CASES)
def test_names_what_is_wrong(metric: EditMetric, inputs: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        metric.update(*inputs)


def test_an_unknown_reduction_is_a_config_error() -> None:
    with pytest.raises(
        ConfigError, match=re.escape("reduction='max' is not known; expected one of ('mean', 'median')")
    ):
        TargetPerplexity(reduction="max")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="Unexpected keyword arguments: `ignore_index`"):
        Reliability(ignore_index=0)
