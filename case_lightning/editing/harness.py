"""A run as a model of lm-evaluation-harness; needs the extra `eval`.

The harness's own `HFLM` takes an edited model as it is, and generates right with it. Where it scores given answers, it
feeds question and answer in one forward, so the answer takes part in the routing: an answer that names the subject of
an edit can bring a question into its scope. `RoutedHFLM` routes each request by its question alone.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import cast

import torch
from lm_eval.models.huggingface import HFLM
from typing_extensions import override

from case_lightning.editing.answering import RoutedModel
from case_lightning.editing.loading import LoadedRun

Request = tuple[tuple[str, str] | None, list[int], list[int]]  # texts, tokens of the question, tokens of the answer


class RoutedHFLM(HFLM):  # type: ignore[misc]  # the harness has no types
    """The harness's Hugging Face model, in which an answer takes no part in the routing of its question.

    A rolling text, which is no answer to anything, is routed by each window as a whole.

    Args:
        run: A finished run.
        settings: Further arguments of `HFLM`, `batch_size` among them.
    """

    def __init__(self, run: LoadedRun, **settings: object) -> None:
        """Hand model and tokenizer over."""
        super().__init__(pretrained=run.model, tokenizer=run.base.tokenizer, **settings)
        self.routed = RoutedModel(run.base, run.model)

    @override
    def _loglikelihood_tokens(
        self, requests: Sequence[Request], *args: object, **kwargs: object
    ) -> list[tuple[float, bool]]:
        routes = [self._route(request) for request in requests]
        found: dict[int, tuple[float, bool]] = {}
        for route in dict.fromkeys(routes):
            chosen = [index for index, own in enumerate(routes) if own == route]
            forced = nullcontext() if route is None else self.routed.tuner.forced_routes(*map(self._place, route))
            with forced:
                scored = super()._loglikelihood_tokens([requests[index] for index in chosen], *args, **kwargs)
            found |= dict(zip(chosen, scored, strict=True))
        return [found[index] for index in range(len(requests))]

    def _route(self, request: Request) -> tuple[int, int] | None:
        """The subspace of a question and where it begins to act; `None` for a window of a rolling text."""
        texts, question, _ = request
        if texts is None:
            return None
        subspaces, starts = self.routed.locate([self._place(*question)])
        return int(subspaces), int(starts)

    def _place(self, *numbers: int) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=cast(torch.device, self.device))
