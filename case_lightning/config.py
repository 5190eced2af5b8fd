"""The settings of a run: dataclasses, one key a field, filled from YAML and dotted command-line overrides."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class DataSettings:
    """Which edits, in which batches.

    Args:
        path: File with the edits, or `hf://owner/name[:split]`; `sample` is the sample that the package carries.
        format: Name of the file's format, or `auto`.
        columns: Our field name to the file's column name.
        limit: How many records to take.
        offset: How many records to pass over first.
        batch_size: Edits in one fit.
        on_error: `raise` at the first record that cannot be used, or `skip` such records.
    """

    path: str = "sample"
    format: str = "auto"
    columns: dict[str, str] | None = None
    limit: int | None = None
    offset: int = 0
    batch_size: int = 10
    on_error: Literal["raise", "skip"] = "raise"


@dataclass
class BaseSettings:
    """Which model is edited, and where.

    Args:
        model: `smollm2-135m` (embedded), a Hugging Face id, a folder or a `.gguf` file.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` …
        layer: Decoder layer to edit; by default at four fifths of the depth.
        trust_remote_code: Whether a checkpoint's own code may run.
    """

    model: str = "smollm2-135m"
    dtype: str = "auto"
    device: str = "auto"
    layer: int | None = None
    trust_remote_code: bool = False


@dataclass
class SubspaceSettings:
    """The subspaces and their router.

    Args:
        rank: Rank of a subspace.
        scale: Factor of its update.
        n_directions: Directions in which the inputs of a subspace are whitened, beside the scale of each neuron.
        tune_input: Whether the input side `A` of a subspace is tuned and stored, too, as published; else it is fixed.
        from_subject: Whether an edit acts from the last token of its subject on, rather than on the whole text.
        subject_threshold: Share of an edit's subject that a query must name to be in its scope.
        relation: What tells whether it asks the same of the subject: the model's `states` and the words, or `words`
            alone.
        relation_threshold: How far it must ask the same; by default .25 for `states` and .1 for `words`.
        phrasebook: Whether a list of common English questions tells, too, and lends edits other wordings.
        storage_dtype: `float32`, `float16`, `bfloat16` or `int8` on disk; int8 has a scale for each column.
    """

    rank: int = 1024
    scale: float = 1.0
    n_directions: int = 16
    tune_input: bool = False
    from_subject: bool = False
    subject_threshold: float = 0.8
    relation: Literal["states", "words"] = "states"
    relation_threshold: float | None = None
    phrasebook: bool = True
    storage_dtype: Literal["float32", "float16", "bfloat16", "int8"] = "int8"


@dataclass
class ConflictSettings:
    """CAA, conflict-assessed allocation.

    Args:
        score: `raw`, the published cosine, `centred`, or `members`.
        threshold: Least score that counts as compatible.
        capacity: Most edits of a subspace; where all are full, one more is opened.
        max_subspaces: Most subspaces that are not full; an edit that conflicts with so many goes to the best of them.
    """

    score: Literal["raw", "centred", "members"] = "members"
    threshold: float = 0.0
    capacity: int = 1000
    max_subspaces: int = 1


@dataclass
class MemorySettings:
    """Knowledge activation regularisation.

    Args:
        size: Activations to keep.
        weight: Weight of their divergence in the loss; 0 turns it off.
        temperature: Of its softmax.
    """

    size: int = 64
    weight: float = 1.0
    temperature: float = 1.0


@dataclass
class TrainingSettings:
    """The fit of one batch.

    Args:
        steps: Optimizer steps.
        learning_rate: Of Adam.
        weight_decay: Of AdamW.
        n_rehearsed: Past edits beside the new ones of a step.
        protection: How much what a subspace answers to past edits weighs against a step; 0 turns it off. Without effect
            where `A` is tuned.
        n_variants: Wordings of each prompt made by rule and fitted beside it.
        chat: Whether each prompt is fitted as a turn of a conversation, too, in the tokenizer's chat template.
        append_end: Whether a target ends with the end-of-sequence token, so that an answer stops after it.
        mask: Which neurons are tuned (KNT): as many of the most sensitive as the entropy rule says. To compare with:
            the `mask_size` most sensitive (`top_k`), as many as by the rule but at `random`, the rule on plain
            `gradient` length, or all (`none`).
        mask_size: Neurons that `top_k` tunes.
        frozen_dtype: Dtype of the frozen layers that a fit runs through, below and above the edited one: `auto`,
            `float32`, `bfloat16` or `float16`. `auto` is bfloat16 where the processor is faster in it; the edited
            model answers in the base's own.
    """

    steps: int = 20
    learning_rate: float = 1.25e-3
    weight_decay: float = 0.0
    n_rehearsed: int = 10
    protection: float = 0.0
    n_variants: int = 4
    chat: bool = False
    append_end: bool = True
    mask: Literal["entropy", "top_k", "random", "gradient", "none"] = "entropy"
    mask_size: int = 256
    frozen_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


@dataclass
class ConsolidationSettings:
    """Past edits of the subspaces that got new ones, learned again together at a rate that falls to 0.

    Args:
        every: Edits from one consolidation to the next; 0 is never. A stream that brought at least half as many since
            the last one ends with one, too.
        passes: How often one shows each edit.
        edits: Most edits of one, drawn at random.
        batch_size: Edits in one of its steps.
    """

    every: int = 50
    passes: int = 1
    edits: int = 500
    batch_size: int = 25


@dataclass
class TrainerSettings:
    """Passed on to Lightning's Trainer.

    Args:
        accelerator: `auto`, `cpu`, `gpu` …
        devices: Number of devices.
        strategy: `auto`, `ddp` …
        precision: `32-true`, `bf16-mixed` …
        num_nodes: Number of machines.
        logger: `csv`, or `tensorboard` (the extra of that name), which shows scalars and plots while the run goes on.
    """

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    num_nodes: int = 1
    logger: Literal["csv", "tensorboard"] = "csv"


@dataclass
class EvaluationSettings:
    """How a run is scored.

    Args:
        batch_size: Prompts scored at once.
        generate: Whether answers are also generated freely.
        retention_points: Points of the retention curve; 0 for none.
    """

    batch_size: int = 32
    generate: bool = True
    retention_points: int = 10


@dataclass
class RunSettings:
    """Everything needed to repeat a run.

    Args:
        seed: Of the subspaces' input side, rehearsal and reservoir.
        run_dir: Folder that the run leaves; a run that is there already goes on.
        on_contradiction: What becomes of an edit whose question an earlier one has: it takes that one's place
            (`supersede`), both are kept and the later one answers (`keep`), or it is left out (`reject`).
    """

    seed: int = 0
    run_dir: str = "runs/default"
    on_contradiction: Literal["supersede", "keep", "reject"] = "supersede"
    data: DataSettings = field(default_factory=DataSettings)
    base: BaseSettings = field(default_factory=BaseSettings)
    subspace: SubspaceSettings = field(default_factory=SubspaceSettings)
    conflict: ConflictSettings = field(default_factory=ConflictSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    consolidation: ConsolidationSettings = field(default_factory=ConsolidationSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
