"""Scores of edits as torchmetrics, and what the method did: conflicts, growth of the subspaces, neuron sensitivity."""

from case_lightning.metrics.bit_identity import BitIdentity
from case_lightning.metrics.conflict_scores import ConflictScores
from case_lightning.metrics.locality import Locality
from case_lightning.metrics.perplexity import TargetPerplexity
from case_lightning.metrics.retention import Retention
from case_lightning.metrics.rows import IGNORE_INDEX
from case_lightning.metrics.sensitivity_distribution import SensitivityDistribution
from case_lightning.metrics.subspace_growth import SubspaceGrowth
from case_lightning.metrics.token_accuracy import Generalization, Reliability, TokenAccuracy

__all__ = [
    "IGNORE_INDEX",
    "BitIdentity",
    "ConflictScores",
    "Generalization",
    "Locality",
    "Reliability",
    "Retention",
    "SensitivityDistribution",
    "SubspaceGrowth",
    "TargetPerplexity",
    "TokenAccuracy",
]
