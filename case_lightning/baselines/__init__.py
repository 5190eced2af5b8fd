"""Other methods of editing a language model, each in one file, and ours, behind one small interface."""

from case_lightning.baselines.alphaedit import AlphaEdit, AlphaEditSettings
from case_lightning.baselines.case import Case, CaseSettings
from case_lightning.baselines.fine_tuning import FineTuning, FineTuningSettings
from case_lightning.baselines.grace import Grace, GraceSettings
from case_lightning.baselines.lora import Lora, LoraSettings
from case_lightning.baselines.memit import MEMIT, MEMITSettings
from case_lightning.baselines.memoir import Memoir, MemoirSettings
from case_lightning.baselines.method import EditingMethod
from case_lightning.baselines.ultraedit import UltraEdit, UltraEditSettings
from case_lightning.baselines.wise import Wise, WiseSettings
from case_lightning.editing.answering import Side

METHODS: dict[str, type[EditingMethod]] = {
    "alphaedit": AlphaEdit,
    "case": Case,
    "ft": FineTuning,
    "grace": Grace,
    "lora": Lora,
    "memit": MEMIT,
    "memoir": Memoir,
    "wise": Wise,
    "ultraedit": UltraEdit,
}

__all__ = [
    "MEMIT",
    "METHODS",
    "AlphaEdit",
    "AlphaEditSettings",
    "Case",
    "CaseSettings",
    "EditingMethod",
    "FineTuning",
    "FineTuningSettings",
    "Grace",
    "GraceSettings",
    "Lora",
    "LoraSettings",
    "MEMITSettings",
    "Memoir",
    "MemoirSettings",
    "Side",
    "UltraEdit",
    "UltraEditSettings",
    "Wise",
    "WiseSettings",
]
