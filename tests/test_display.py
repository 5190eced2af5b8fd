"""What a run shows at its end."""

import io

import pytest
from rich.console import Console

from case_lightning.display import show_metrics


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((1, 20, 1), ["1 edit in tiny", "0.500 s an edit, 20 optimizer steps, 1 subspace, 0.50 MiB on disk"]),
        ((1200, 1, 2), ["1,200 edits in tiny", "0.500 s an edit, 1 optimizer step, 2 subspaces, 0.50 MiB on disk"]),
    ],
)
def test_figures_are_told_in_words(counts: tuple[int, int, int], expected: list[str]) -> None:
    edits, steps, subspaces = counts
    cost = {"edit_seconds": 0.5, "optimizer_steps": steps, "subspaces": subspaces, "adapter_bytes": 2**19}
    parts = {"pre": {"reliability": 0.25}, "final": {"reliability": 1.0, "perplexity": 12345.6}, "cost": cost}
    console = Console(file=io.StringIO(), width=100)
    show_metrics(console, {"n_edits": edits, "base_model": "tiny"} | parts)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [lines[0].strip(), lines[-1]] == expected
    row = next(line for line in lines if "reliability" in line)
    assert row.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", "").split() == ["reliability", "0.250", "1.000"]
    assert any("12,346" in line for line in lines)
