"""The frozen base model: fetching, loading, finding its MLP layers, and telling one base from another."""

from case_lightning.base.architecture import Architecture, find_architecture
from case_lightning.base.embedded import DEFAULT_MODEL
from case_lightning.base.fingerprint import fingerprint
from case_lightning.base.load import Base, load_base

__all__ = ["DEFAULT_MODEL", "Architecture", "Base", "find_architecture", "fingerprint", "load_base"]
