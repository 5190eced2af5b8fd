"""What a server does not do, and how it says so: each error has its status, and all have OpenAI's form."""

from typing import Any

from case_lightning.errors import CaseError, ConfigError, RunError, UnknownEditError

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
REMEDIES: dict[type[CaseError], str] = {  # the first that an error is of; a `ConfigError` is a fit that diverged
    UnknownEditError: "GET /v1/edits lists them",
    RunError: "nothing is changed; whoever runs the server has to see to it",
    ConfigError: "nothing is changed; send fewer edits in a request, or ask whoever runs the server for a run with a "
    "lower training.learning_rate",
}


class BusyError(CaseError):
    """As many questions or edits wait as may wait."""


class EditError(CaseError):
    """An edit failed in a way that nobody has foreseen; the run is as it was before."""


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


def word_for_client(error: CaseError, made: bool = False) -> CaseError:
    """The error of a command on a run, with what a client can do about it in place of options of `fit` and `history`.

    Args:
        error: Its message is what happened, a semicolon and what the user of a command can do.
        made: Whether the change stands all the same, as where a disk is full by the time it is copied into place.
    """
    what, semicolon, _ = str(error).partition("; ")
    if made:
        return RunError(
            f"the change is made, but {what.removeprefix('run_dir: ')}; whoever runs the server has to see to it"
        )
    remedy = next((remedy for kind, remedy in REMEDIES.items() if isinstance(error, kind)), None)
    return type(error)(f"{what.removeprefix('run_dir: ')}; {remedy}" if semicolon and remedy else str(error))


def find_status(error: CaseError) -> tuple[int, dict[str, str]]:
    """The status that an error is answered with, and the headers beside it.

    What the client has got wrong is a 400; a run or an editing process that is out of order is none of its mistakes.
    """
    if isinstance(error, LimitError):
        return 429, {"Retry-After": str(int(error.seconds) + 1)}
    if isinstance(error, BusyError):
        return 503, {"Retry-After": "1"}
    if isinstance(error, EditError):
        return 500, {}
    is_out_of_order = isinstance(error, RunError) and not isinstance(error, UnknownEditError)
    return (503 if is_out_of_order else 400), {}


def describe_error(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of an answer with an error."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}
