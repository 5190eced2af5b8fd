"""The server's log: one line of JSON for each event, on standard error."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

logger = logging.getLogger("case_lightning.serving")


def start_log() -> None:
    """Write to standard error."""
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.setLevel(logging.INFO)
    logger.propagate = False


def log(event: str, **fields: Any) -> None:  # noqa: ANN401  whatever JSON can hold
    """Write one line of JSON to the log."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
    logger.info(json.dumps(line, ensure_ascii=False))
