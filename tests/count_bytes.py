"""How many bytes an adapter takes on disk, also of one that is built on the meta device and has no values."""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

ALIGNMENT = 8  # of a safetensors header
NAMES = {  # of dtypes in the format, in the order in which a file has them
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.bool: "BOOL",
}


def count_bytes(state: Mapping[str, Tensor]) -> int:
    """Size of the safetensors file that holds a state dict as PEFT saves it, in bytes.

    Args:
        state: Tensors by name; only their shapes and dtypes are looked at.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    order = list(NAMES)
    for name, value in sorted(state.items(), key=lambda item: (order.index(item[1].dtype), item[0])):
        start, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-length // ALIGNMENT) * ALIGNMENT + end
