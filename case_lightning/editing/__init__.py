"""Editing itself: the tiny LightningModule, the loop over its fits, scoring, and the folder that a run leaves."""
