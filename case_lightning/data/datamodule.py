"""The stream of edit batches as a LightningDataModule.

It serves a plain loop, `for batch in EditDataModule("edits.jsonl").batches()`, and any LightningModule alike: a batch
is a list of `Edit`, and turning it into tokens is left to the module, which knows the tokenizer.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from case_lightning.data.checks import OnContradiction, check_fits, split_batches
from case_lightning.data.edit import Edit
from case_lightning.data.reading import EditReader, OnError, check_count
from case_lightning.data.subjects import find_subject


class EditDataModule(LightningDataModule):
    """Streams the edits of a data set in order, one batch at a time.

    Args:
        path: A JSON, JSONL, CSV, TSV or Parquet file, or `hf://owner/name[:split]`.
        batch_size: Edits that arrive, and are written, together.
        limit: How many records to take; None for all.
        offset: How many records to pass over first.
        format: A name of `case_lightning.data.FORMATS`, or `auto` to tell it by looking at the records.
        columns: Our field name to the file's column name, for files that are in none of these formats.
        on_error: `raise` at the first record that cannot be used, or `skip` such records with a warning.
        on_contradiction: Which edit of a batch is left out where another one of it has its question.

    Raises:
        ConfigError: If `batch_size` is not at least 1.
    """

    def __init__(
        self,
        path: str | Path,
        batch_size: int = 10,
        limit: int | None = None,
        offset: int = 0,
        format: str = "auto",  # noqa: A002
        columns: Mapping[str, str] | None = None,
        on_error: OnError = "raise",
        on_contradiction: OnContradiction = "supersede",
    ) -> None:
        """Store the arguments; the data is read in `setup`."""
        super().__init__()
        check_count(batch_size, "data.batch_size", least=1)
        self.path = path
        self.batch_size = batch_size
        self.limit = limit
        self.offset = offset
        self.format = format
        self.columns = columns
        self.on_error: OnError = on_error
        self.on_contradiction: OnContradiction = on_contradiction
        self.skipped = 0
        self.dropped = 0
        self._check: Callable[[Edit], None] | None = None
        self._records: list[Edit] = []
        self._batches: list[list[Edit]] | None = None

    def require_fit(self, count_tokens: Callable[[str], int], max_tokens: int, n_end: int = 0) -> None:
        """Have every edit checked against the model's context; data that was read already is read again.

        Args:
            count_tokens: The length of a text in tokens, special tokens included.
            max_tokens: The length of the model's context in tokens.
            n_end: Tokens that follow the target where an edit is learned.
        """
        check_count(max_tokens, "max_tokens", least=1)
        self._check = lambda edit: check_fits(edit, count_tokens, max_tokens, n_end)
        self._batches = None

    def setup(self, stage: str | None = None) -> None:
        """Read and check the data, once.

        Raises:
            ConfigError: If an argument cannot be used with this data.
            DataError: If the data cannot be read, a record cannot be used, or nothing is left.
        """
        if self._batches is not None:
            return
        reader = EditReader(self.format, self.columns, self.on_error, self._check)
        self._records = edits = reader.read(self.path, self.limit, self.offset)
        self._batches = split_batches(edits, self.batch_size, self.on_contradiction)
        self.skipped = len(reader.skipped)
        self.dropped = len(edits) - len(self.edits)
        if self.dropped:
            place = "comes earlier" if self.on_contradiction == "reject" else "comes again later"
            rank_zero_warn(f"{self.path}: {self.dropped} edits dropped: their prompt {place} in their batch")
        self._warn_of_subjects()

    def _warn_of_subjects(self) -> None:
        strangers = [one for one in self._records if one.subject and find_subject(one.prompt, one.subject) is None]
        if strangers:
            n_edits, first = len(self._records), strangers[0]
            rank_zero_warn(
                f"{self.path}: in {len(strangers)} of {n_edits} edits the prompt does not name the subject, so it "
                f"answers only what says much the same; the first: edit {first.id!r}, {first.subject!r}"
            )

    @property
    def edits(self) -> list[Edit]:
        """All edits of all batches, in order; reads the data if `setup` has not."""
        return list(chain.from_iterable(self.batches()))

    @property
    def records(self) -> list[Edit]:
        """All edits that were read, those dropped from a batch, too; reads the data if `setup` has not."""
        self.setup()
        return list(self._records)

    def batches(self) -> Iterator[list[Edit]]:
        """Return the batches in order; reads the data if `setup` has not."""
        self.setup()
        return map(list, self._batches or ())

    def train_dataloader(self) -> DataLoader[list[Edit]]:
        """Return a loader whose batches are the lists of edits, in order."""
        return DataLoader(list(self.batches()), batch_size=None, collate_fn=list)  # type: ignore[arg-type]
