"""What the routes of a server share."""

from dataclasses import dataclass
from pathlib import Path

from case_lightning.base import Base
from case_lightning.editing.ledger import Ledger
from case_lightning.serving.edit_desk import Allowance, EditDesk
from case_lightning.serving.engine import Engine
from case_lightning.serving.metrics import Metrics
from case_lightning.serving.settings import ServeSettings

EDITED = "+edits"  # behind the base model's name


@dataclass(frozen=True)
class Served:
    """A run that is being served.

    Attributes:
        settings: How.
        base: The base model.
        ledger: The run's ledger.
        engine: What answers.
        desk: What edits; `None` where the server takes no edits.
        allowance: How many edits may be made.
        metrics: What is counted.
    """

    settings: ServeSettings
    base: Base
    ledger: Ledger
    engine: Engine
    desk: EditDesk | None
    allowance: Allowance
    metrics: Metrics

    @property
    def base_name(self) -> str:
        """Name of the unedited model."""
        return Path(self.base.name).name

    @property
    def edited_name(self) -> str:
        """Name of the edited model."""
        return self.base_name + EDITED
