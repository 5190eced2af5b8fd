"""The server's side of the editing process: one command at a time, and the new state published when it is done."""

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from case_lightning.errors import CaseError, RunError
from case_lightning.serving.editor_process import Change, work


class LimitError(CaseError):
    """More edits than may be made in a minute.

    Args:
        message: What the client is told.
        seconds: When to come again.
    """

    def __init__(self, message: str, seconds: float) -> None:
        """Store the arguments."""
        super().__init__(message)
        self.seconds = seconds


class Allowance:
    """So many facts a minute: it fills up evenly, to a minute's worth at most.

    Args:
        per_minute: How many.
        clock: Seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin full."""
        self.per_minute, self.clock = per_minute, clock
        self._left, self._at = float(per_minute), clock()

    def take(self, count: int) -> None:
        """Use up so many.

        Raises:
            LimitError: There are not as many left.
        """
        now = self.clock()
        self._left = min(self.per_minute, self._left + (now - self._at) * self.per_minute / 60)
        self._at = now
        if count > self._left:
            seconds = (min(count, self.per_minute) - self._left) * 60 / self.per_minute
            raise LimitError(f"{self.per_minute} edits a minute are taken; come again in {seconds:.0f} s", seconds)
        self._left -= count


class EditDesk:
    """Hands commands to the editing process.

    Args:
        path: The run's folder.
        publish: Called with the folder and the number of edits of each new state, in a thread.
    """

    def __init__(self, path: str, publish: Callable[[Path, int], None]) -> None:
        """Start the process."""
        self._publish = publish
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=work, args=(other, path), name="editor", daemon=True)
        self._process.start()
        other.close()
        self._caller = ThreadPoolExecutor(1, "edits")  # one command at a time, in the order in which they came
        self._snapshot = ""
        self.failed = False

    @property
    def alive(self) -> bool:
        """Whether it takes commands."""
        return self._process.is_alive() and not self.failed

    def wait_until_open(self) -> None:
        """Wait for the process to have opened the run.

        Raises:
            CaseError: It cannot.
        """
        self._snapshot = self._receive().snapshot

    async def command(self, name: str, *arguments: Any) -> Change:  # noqa: ANN401  those of `EditorProcess`
        """Have a change made; it is published once this returns.

        Raises:
            CaseError: The run does not take it, and is as it was.
        """
        return await asyncio.get_running_loop().run_in_executor(self._caller, self._call, name, arguments)

    def close(self) -> None:
        """End the process; a change under way is not made."""
        self._process.terminate()  # a change that is cut off has not been made
        self._process.join()
        self._caller.shutdown()

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Change:
        try:
            self._connection.send((name, arguments))
        except OSError as error:
            self.failed = True
            raise RunError("the editing process is gone; start the server again, what was made is safe") from error
        change = self._receive()
        if change.snapshot != self._snapshot:
            self._publish(Path(change.snapshot), change.n_edits)
            self._snapshot = change.snapshot
        return change

    def _receive(self) -> Change:
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self.failed = True
            raise RunError("the editing process is gone; start the server again, what was made is safe") from error
        if isinstance(answer, Exception):
            raise answer
        change: Change = answer
        return change
