"""Rows of a comparison as its cells leave them."""

from typing import Any


def make_row(method: str, count: int, reliability: float, seed: int = 0) -> dict[str, Any]:
    figures = {"reliability": reliability, "generalization": 0.5, "locality": 1.0, "exact_match": 0.4}
    costs = {"optimizer_steps": 2.0, "bytes": 1500, "peak_rss_bytes": 2e9, "generate_overhead": 1.01}
    names = {"data": "capitals", "method": method, "seed": seed, "n_edits": count, "complete": True}
    return names | figures | costs | {"generated_exact_match": None, "perplexity_median": 1.5, "edit_seconds": 9.0}
