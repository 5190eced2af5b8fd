"""Where a prompt names the subject of its edit."""

import re


def find_subject(prompt: str, subject: str | None) -> tuple[int, int] | None:
    """Where a prompt first names its subject.

    Returns:
        Start and end; `None` where there is no subject or the prompt does not contain it.
    """
    return next(iter(find_names(prompt, subject)), None)


def find_names(prompt: str, subject: str | None) -> list[tuple[int, int]]:
    """Where a prompt names its subject: as whole words if it ever does, and of these in the subject's own case."""
    named = re.escape((subject or "").strip())
    if not named:
        return []
    words = rf"(?<!\w){named}(?!\w)"
    patterns = (re.compile(words), re.compile(words, re.IGNORECASE), re.compile(named, re.IGNORECASE))
    return next((found for one in patterns if (found := [match.span() for match in one.finditer(prompt)])), [])
