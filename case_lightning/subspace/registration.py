"""Making the tuner known to PEFT, so that its own entry points load and save our adapters.

PEFT 0.21 registers only methods named in its `PeftType` enum, which is closed. Extending the enum at import is the one
way in which everything works, `PeftModel.from_pretrained` and transformers' own adapter loading alike.
"""

from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

NAME = "CASE"


def register_case() -> None:
    """Add `CASE` to PEFT's methods; does nothing the second time."""
    if NAME in PeftType.__members__:
        return
    member = str.__new__(PeftType, NAME)
    member._name_ = NAME
    member._value_ = NAME
    PeftType._member_names_.append(NAME)
    PeftType._member_map_[NAME] = member
    PeftType._value2member_map_[NAME] = member

    from case_lightning.subspace.config import CaseConfig
    from case_lightning.subspace.model import CaseModel

    register_peft_method(name=NAME.lower(), config_cls=CaseConfig, model_cls=CaseModel)
