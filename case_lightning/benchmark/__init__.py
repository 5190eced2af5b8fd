"""A comparison of editing methods on the same model, data and evaluator: cells, the runs they need, table and plots."""

from case_lightning.benchmark.settings import BenchSettings

__all__ = ["BenchSettings"]
