import peft
import pytest
from packaging.version import Version
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils.peft_types import PeftType

from case_lightning.subspace import CaseConfig, CaseModel
from case_lightning.subspace.registration import register_case


def test_the_peft_version_is_one_whose_enum_is_known_to_extend() -> None:
    """Registration leans on how PEFT 0.21 is built: read `registration.py` again before raising this."""
    assert Version("0.21") <= Version(peft.__version__) < Version("0.22"), f"PEFT {peft.__version__} is not tried"


def test_registration_works_once_and_again() -> None:
    members = list(PeftType)
    register_case()
    assert list(PeftType) == members
    assert PeftType("CASE") is PeftType.CASE is PeftType["CASE"]
    assert PeftType.CASE == "CASE"
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.CASE] is CaseConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.CASE] is CaseModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING[PeftType.CASE] == CaseModel.prefix


def test_other_methods_are_as_they_were() -> None:
    assert PeftType("LORA") is PeftType.LORA
    with pytest.raises(ValueError, match="NO_SUCH_METHOD"):
        PeftType("NO_SUCH_METHOD")
