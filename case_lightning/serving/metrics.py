"""What Prometheus reads of a server."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server.

    Attributes:
        registry: All of them.
        requests: Requests done, by route, method and status.
        seconds: Their time, by route.
        first_piece: Seconds from a question to the first piece of its answer.
        steps: Seconds of the engine's steps.
        rows: Answers being decoded when it is read.
        tokens: Tokens of prompts and of answers.
        answers: Answers begun, by whether an edit answers.
        edits: Edits assessed, added, undone and made again; facts that were left out are not counted.
        held: Edits that hold in the state that questions are answered from.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = CollectorRegistry()
        one = self.registry
        self.requests = Counter("case_requests", "Requests done.", ["route", "method", "status"], registry=one)
        self.seconds = Histogram("case_request_seconds", "Time of a request.", ["route"], buckets=SECONDS, registry=one)
        self.first_piece = Histogram(
            "case_first_piece_seconds", "Time to the first piece.", buckets=SECONDS, registry=one
        )
        self.steps = Histogram("case_step_seconds", "Time of a decoding step.", buckets=SECONDS, registry=one)
        self.rows = Gauge("case_rows", "Answers being decoded.", registry=one)
        self.waiting = Gauge("case_waiting", "Questions that wait.", registry=one)
        self.tokens = Counter("case_tokens", "Tokens.", ["of"], registry=one)
        self.answers = Counter("case_answers", "Answers.", ["edited"], registry=one)
        self.edits = Counter("case_edits", "Edits.", ["action"], registry=one)
        self.held = Gauge("case_edits_held", "Edits that hold.", registry=one)
