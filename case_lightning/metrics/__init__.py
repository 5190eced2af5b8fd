"""Scores of edits as torchmetrics: reliability, generalization, locality, perplexity of the target, retention."""

from case_lightning.metrics.bit_identity import BitIdentity
from case_lightning.metrics.locality import Locality
from case_lightning.metrics.perplexity import TargetPerplexity
from case_lightning.metrics.retention import Retention
from case_lightning.metrics.rows import IGNORE_INDEX
from case_lightning.metrics.token_accuracy import Generalization, Reliability, TokenAccuracy

__all__ = [
    "IGNORE_INDEX",
    "BitIdentity",
    "Generalization",
    "Locality",
    "Reliability",
    "Retention",
    "TargetPerplexity",
    "TokenAccuracy",
]
