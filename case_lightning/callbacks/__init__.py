"""The method as Lightning callbacks that know nothing of language models; each works alone on any LightningModule."""

from case_lightning.callbacks.activation_memory import ActivationMemory
from case_lightning.callbacks.conflict_allocation import Allocatable, ConflictAllocation
from case_lightning.callbacks.key_protection import KeyProtection
from case_lightning.callbacks.method_plots import MethodPlots
from case_lightning.callbacks.sensitive_neuron_mask import SensitiveNeuronMask

__all__ = [
    "ActivationMemory",
    "Allocatable",
    "ConflictAllocation",
    "KeyProtection",
    "MethodPlots",
    "SensitiveNeuronMask",
]
