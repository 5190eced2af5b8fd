"""The server's side of the editing process: one command at a time, and the new state published when it is done."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from case_lightning.errors import RunError
from case_lightning.serving.editor_process import Change, work
from case_lightning.serving.refusals import BusyError, LimitError
from case_lightning.serving.settings import Limits

IS_GONE = "the editing process is gone; start the server again, what was made is safe"


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
        limits: How many commands may wait, and how long one may take.
    """

    def __init__(self, path: str, publish: Callable[[Path, int], None], limits: Limits | None = None) -> None:
        """Start the process."""
        self._publish, self._limits = publish, limits or Limits()
        self._pending: set[Future[Change]] = set()
        self._began: float | None = None  # when the command under way did
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

    @property
    def stuck(self) -> bool:
        """Whether the command under way takes longer than one should."""
        began = self._began
        return began is not None and time.monotonic() - began > self._limits.max_edit_seconds

    def wait_until_open(self) -> None:
        """Wait for the process to have opened the run.

        Raises:
            CaseError: It cannot.
        """
        self._snapshot = self._receive().snapshot

    def check_room(self) -> None:
        """Refuse a change that could not be submitted now.

        Raises:
            BusyError: Too many changes wait.
        """
        if len(self._pending) >= self._limits.max_waiting_edits:
            raise BusyError(f"{len(self._pending)} changes wait already; come again in a while")

    def submit(self, name: str, *arguments: Any) -> "Future[Change]":  # noqa: ANN401  those of `EditorProcess`
        """Have a change made; it is published once the result is there. Until it begins it can be cancelled.

        The result is a `CaseError` where the run does not take the change, and is as it was.

        Raises:
            BusyError: Too many changes wait.
        """
        self.check_room()
        command = self._caller.submit(self._call, name, arguments)
        self._pending.add(command)
        command.add_done_callback(self._pending.discard)
        return command

    def close(self) -> None:
        """End the process; a change under way is not made."""
        self._process.kill()  # a change that is cut off has not been made; a fit would put off a mere request to end
        self._process.join()
        self._caller.shutdown(cancel_futures=True)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Change:
        self._began = time.monotonic()
        try:
            self._connection.send((name, arguments))
            change = self._receive()
            if change.snapshot != self._snapshot:
                self._show(change)
            return change
        except OSError as error:
            if isinstance(error, RunError):
                raise
            self.failed = True
            raise RunError(IS_GONE) from error
        finally:
            self._began = None

    def _show(self, change: Change) -> None:
        try:
            self._publish(Path(change.snapshot), change.n_edits)
        except Exception as error:  # a file that is gone, memory: whatever it is, the change stands
            raise RunError(
                f"the change is made, but not answered from yet ({type(error).__name__}: {error}); it is tried again "
                f"with the next one"
            ) from error
        self._snapshot = change.snapshot

    def _receive(self) -> Change:
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self.failed = True
            raise RunError(IS_GONE) from error
        if isinstance(answer, Exception):
            raise answer
        change: Change = answer
        return change
