"""The subspaces as a PEFT tuner: config, layer, model and the router; importing it makes PEFT know `CASE` adapters."""

from case_lightning.subspace.registration import register_case

register_case()

from case_lightning.subspace.config import CaseConfig  # noqa: E402
from case_lightning.subspace.layer import CaseAdapter, CaseLayer  # noqa: E402
from case_lightning.subspace.model import CaseModel  # noqa: E402
from case_lightning.subspace.router import Router, TokenSpace  # noqa: E402
from case_lightning.subspace.subspaces import UNEDITED, Subspaces  # noqa: E402

__all__ = ["UNEDITED", "CaseAdapter", "CaseConfig", "CaseLayer", "CaseModel", "Router", "Subspaces", "TokenSpace"]
