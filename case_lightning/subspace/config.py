"""Configuration of the CASE tuner: what an adapter folder says of itself."""

from dataclasses import dataclass, field

from peft.config import PeftConfig
from peft.utils.peft_types import PeftType

from case_lightning.errors import ConfigError

FORMAT_VERSION = 2
STORAGE_DTYPES = ("float32", "float16", "bfloat16", "int8")


@dataclass
class CaseConfig(PeftConfig):
    """Configuration of a `CaseModel`.

    Args:
        target_modules: Dotted name of the one MLP down-projection to edit. By default the tuner finds it at about four
            fifths of the model's depth.
        layer: Index of the decoder layer to edit instead; used only where `target_modules` is not given.
        rank: Rank of a subspace.
        scale: Factor `s` of `ΔW = s · B A`.
        seed: Seed of `A`, without which an adapter cannot be read.
        n_directions: Directions of the whitening of the projection's input (see `case_lightning.method.basis`).
        tune_input: Whether `A` is trained and stored, too; else it comes from the seed and the whitening.
        subject_threshold: Share of an edit's subject that a query must name to be in the edit's scope, 0 to 1.
        relation_threshold: How far it must ask the same: the share of the rest of the edit's prompt that it covers or,
            with `relation_layer`, the cosine of states with half of that share on top; 0 to 1.
        phrasebook: Whether a list of common questions tells, too, where the router has a tokenizer to read with.
        from_subject: Whether an edit acts from the last token of its subject on, rather than on the whole text.
        relation_layer: Layer whose entering states tell what is asked; by default words alone do.
        boundary_tokens: Tokens that end a sentence.
        storage_dtype: Dtype of saved subspaces; computation is in float32.
        n_subspaces: How many subspaces the saved adapter has.
        n_keys: How many router keys.
        n_key_tokens: How many tokens these have together.
        n_calibration: How many tokens the router's calibration text has.
        n_memories: How many rows of activation memory.
        base_fingerprint: Content hash of the base model that was edited; loading on another one is refused.
        format_version: Version of the adapter's file format.
    """

    target_modules: list[str] | str | None = None
    layer: int | None = None
    rank: int = 64
    scale: float = 1.0
    seed: int = 0
    n_directions: int = 0
    tune_input: bool = False
    subject_threshold: float = 0.8
    relation_threshold: float = 0.1
    phrasebook: bool = False
    from_subject: bool = False
    relation_layer: int | None = None
    boundary_tokens: list[int] = field(default_factory=list)
    storage_dtype: str = "int8"
    n_subspaces: int = 0
    n_keys: int = 0
    n_key_tokens: int = 0
    n_calibration: int = 0
    n_memories: int = 0
    base_fingerprint: str | None = None
    format_version: int = field(default=FORMAT_VERSION)

    def __post_init__(self) -> None:
        """Check what was given."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PeftType("CASE")
        if self.format_version < FORMAT_VERSION:
            raise ConfigError(
                f"this adapter has format version {self.format_version}, this package reads version {FORMAT_VERSION}; "
                f"make the edits again, its run's ledger holds them"
            )
        if self.format_version > FORMAT_VERSION:
            raise ConfigError(
                f"this adapter has format version {self.format_version}, this package reads up to {FORMAT_VERSION}; "
                f"update case_lightning"
            )
        for name in ("subject_threshold", "relation_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: expected 0 to 1, found {getattr(self, name)}")
        for name in ("rank", "scale"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0, found {getattr(self, name)}")
        if self.storage_dtype not in STORAGE_DTYPES:
            raise ConfigError(f"storage_dtype: expected {', '.join(STORAGE_DTYPES)}, found {self.storage_dtype!r}")
