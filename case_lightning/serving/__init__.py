"""Serving a run: an engine that answers in batches, an editor in a process of its own, and HTTP around both."""
