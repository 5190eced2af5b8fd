"""A model of any size with random weights, for timing where no checkpoint can be had.

    python examples/random_model.py runs/random_7b
    python examples/profile_edits.py --config configs/zsre_llama2_7b.yaml --base.model runs/random_7b \
        --data.path zsre_mend_edit.json --data.batch_size 100

The shape is LLaMA-2-7B's unless other sizes are given (14 GB in bfloat16); the tokenizer is the embedded model's, whose
vocabulary is half as large again. What such a model answers means nothing; what an edit of it costs does.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from case_lightning.base import load_base

SIZES = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}


def main() -> None:
    """Draw the weights and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where it goes")
    for name, size in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    arguments = vars(parser.parse_args())
    folder = arguments.pop("folder")
    tokenizer = load_base("smollm2-135m", device="cpu").tokenizer
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), dtype="bfloat16", **ends, **arguments)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sys.stdout.write(f"{folder}: {sum(one.stat().st_size for one in folder.iterdir()) / 1e9:.1f} GB\n")


if __name__ == "__main__":
    main()
