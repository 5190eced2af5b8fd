"""Lifelong knowledge editing of language models on PyTorch Lightning.

New facts arrive in small batches, thousands of them over a model's life. Each is written into the model, stays written,
answers its paraphrases, and leaves everything else the model says unchanged. The method is CASE (Conflict-assessed
Knowledge-sensitive Neuron Tuning, WWW 2026, doi 10.1145/3774904.3792427).

The commands are modules of this package, `python -m case_lightning.fit` among them. Importing the package itself loads
nothing heavy: take what you need from its folders.
"""

__version__ = "0.1.0"
