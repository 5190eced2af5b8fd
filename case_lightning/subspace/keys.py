"""Router keys: what is stored of each edit to recognise the questions in its scope, a few forms of its prompt."""

import torch
from torch import Tensor, nn
from typing_extensions import override


class RouterKeys(nn.Module):
    """The edits' prompts as token ids, each with its subject marked and the subspace that answers it.

    All are buffers, so they are saved with the adapter and moved with the model.

    Args:
        n_keys: Keys to make room for before a state dict is loaded.
        n_tokens: Tokens to make room for.
        n_calibration: Calibration tokens to make room for.
    """

    calibration: Tensor
    tokens: Tensor
    in_subject: Tensor
    lengths: Tensor
    subspaces: Tensor

    def __init__(self, n_keys: int = 0, n_tokens: int = 0, n_calibration: int = 0) -> None:
        """Make room, without keys."""
        super().__init__()
        self.register_buffer("calibration", torch.zeros(n_calibration, dtype=torch.int32))
        self.register_buffer("tokens", torch.zeros(n_tokens, dtype=torch.int32))
        self.register_buffer("in_subject", torch.zeros(n_tokens, dtype=torch.bool))
        self.register_buffer("lengths", torch.zeros(n_keys, dtype=torch.int32))
        self.register_buffer("subspaces", torch.zeros(n_keys, dtype=torch.int16))

    def __len__(self) -> int:
        """Number of keys."""
        return len(self.lengths)

    def calibrate(self, tokens: Tensor) -> None:
        """Keep the token ids of the text that tells the router which words are common, `(tokens,)`.

        A few kilobytes; with them an adapter needs no tokenizer to route.
        """
        self.calibration = tokens.to(self.tokens.device, torch.int32)

    def add(self, tokens: Tensor, in_subject: Tensor, subspace: int) -> None:
        """Store one edit's key.

        Args:
            tokens: Token ids of its prompt, `(length,)`.
            in_subject: Which of them belong to the subject, boolean `(length,)`; none where it is not known.
            subspace: Index of its subspace.

        Raises:
            ValueError: There are no tokens (such a key would have every query in its scope), or a mark for each is
                missing.
        """
        if not len(tokens) or len(tokens) != len(in_subject):
            raise ValueError(
                f"a router key needs at least one token and a mark for each, found {len(tokens)} tokens and "
                f"{len(in_subject)} marks; give the edit's prompt"
            )
        device = self.tokens.device
        self.tokens = torch.cat([self.tokens, tokens.to(device, torch.int32)])
        self.in_subject = torch.cat([self.in_subject, in_subject.to(device, torch.bool)])
        self.lengths = torch.cat([self.lengths, torch.tensor([len(tokens)], dtype=torch.int32, device=device)])
        self.subspaces = torch.cat([self.subspaces, torch.tensor([subspace], dtype=torch.int16, device=device)])

    def split(self) -> list[tuple[Tensor, Tensor]]:
        """Token ids and marks of each key, `(length,)` both, on the CPU."""
        lengths = self.lengths.tolist()
        parts = (torch.split(one.cpu(), lengths) for one in (self.tokens, self.in_subject))
        return list(zip(*parts, strict=True))

    def remove(self, gone: Tensor) -> None:
        """Drop some keys, boolean `(keys,)`."""
        gone = gone.to(self.tokens.device)
        kept = ~torch.repeat_interleave(gone, self.lengths.long())
        self.tokens, self.in_subject = self.tokens[kept], self.in_subject[kept]
        self.lengths, self.subspaces = self.lengths[~gone], self.subspaces[~gone]

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        for name in (prefix + "tokens", prefix + "calibration"):
            if name in state_dict:
                state_dict[name] = state_dict[name].to(torch.int32)  # of two bytes in some files
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.tokens = self.tokens.clone()  # by another tensor the router sees that there are other keys


def encode_tokens(state: dict[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """A state dict in which router keys take two bytes a token, where the vocabulary is small enough for that."""
    small = vocabulary <= torch.iinfo(torch.uint16).max + 1
    tokens = (".keys.tokens", ".keys.calibration")
    return {name: value.to(torch.uint16) if small and name.endswith(tokens) else value for name, value in state.items()}
