"""Tiny random models, tokenizers and GGUF files that the tests build from nothing."""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

VOCAB = 64
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Family:
    """A model family in miniature and what has to be found in it."""

    config: PreTrainedConfig
    layers_path: str
    down_projection: str
    d_in: int
    final_norm: str | None


FAMILIES = {
    "llama": Family(LlamaConfig(**SIZES), "model.layers", "mlp.down_proj", 48, "model.norm"),
    "llama, MLP as wide as attention": Family(
        LlamaConfig(**SIZES | {"intermediate_size": 32}), "model.layers", "mlp.down_proj", 32, "model.norm"
    ),
    "qwen2": Family(Qwen2Config(**SIZES), "model.layers", "mlp.down_proj", 48, "model.norm"),
    "qwen3, attention wider than the MLP": Family(
        Qwen3Config(**SIZES, head_dim=16), "model.layers", "mlp.down_proj", 48, "model.norm"
    ),
    "mistral": Family(MistralConfig(**SIZES), "model.layers", "mlp.down_proj", 48, "model.norm"),
    "gemma": Family(GemmaConfig(**SIZES, head_dim=16), "model.layers", "mlp.down_proj", 48, "model.norm"),
    "gemma2": Family(Gemma2Config(**SIZES, head_dim=16), "model.layers", "mlp.down_proj", 48, "model.norm"),
    "phi3, fused gate and up, fused attention twice as wide": Family(
        Phi3Config(**SIZES | {"intermediate_size": 24}), "model.layers", "mlp.down_proj", 24, "model.norm"
    ),
    "phi3, fused attention wider than the hidden state": Family(
        Phi3Config(**SIZES, head_dim=16), "model.layers", "mlp.down_proj", 48, "model.norm"
    ),
    "gpt2, Conv1D": Family(
        GPT2Config(vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=3, n_head=4),
        "transformer.h",
        "mlp.c_proj",
        128,
        "transformer.ln_f",
    ),
    "gpt_neox": Family(GPTNeoXConfig(**SIZES), "gpt_neox.layers", "mlp.dense_4h_to_h", 48, "gpt_neox.final_layer_norm"),
    "opt, MLP on the layer itself, norm before the layers": Family(
        OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32),
        "model.decoder.layers",
        "fc2",
        48,
        "model.decoder.final_layer_norm",
    ),
    "opt, no final norm": Family(
        OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, do_layer_norm_before=False),
        "model.decoder.layers",
        "fc2",
        48,
        None,
    ),
    "falcon, one key for all heads": Family(
        FalconConfig(**SIZES), "transformer.h", "mlp.dense_4h_to_h", 128, "transformer.ln_f"
    ),
    "lfm2, final norm named after the embedding, layers of two kinds": Family(
        Lfm2Config(**SIZES, layer_types=["conv", "full_attention", "conv"], block_auto_adjust_ff_dim=False),
        "model.layers",
        "feed_forward.w2",
        48,
        "model.embedding_norm",
    ),
}


def build_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A random model in eval mode; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).eval()


def build_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words: `<pad> <s> </s> <unk> w4 w5 ...`."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(4, VOCAB))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


def save_folder(folder: Path, config: PreTrainedConfig | None = None, **special: str) -> Path:
    """A checkpoint folder as transformers writes it, its tokenizer without a pad token unless given one."""
    build_model(config or LlamaConfig(**SIZES)).save_pretrained(folder)
    build_tokenizer(**(special or {"eos_token": "</s>"})).save_pretrained(folder)
    return folder


def write_gguf(path: Path, splitting_rule: str = "smollm") -> Path:
    """A one-layer Llama whose down-projection is quantised to Q4_1, with a byte-level tokenizer."""
    rng = np.random.default_rng(0)
    hidden, intermediate = 32, 64
    characters = sorted(set(pre_tokenizers.ByteLevel.alphabet()))
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *characters, "ĠĠ"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(intermediate)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting_rule)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(characters) + 1))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {
        "token_embd": (len(tokens), hidden),
        "output": (len(tokens), hidden),
        "output_norm": (hidden,),
        "blk.0.attn_norm": (hidden,),
        "blk.0.ffn_norm": (hidden,),
        "blk.0.attn_q": (hidden, hidden),
        "blk.0.attn_k": (hidden // 2, hidden),
        "blk.0.attn_v": (hidden // 2, hidden),
        "blk.0.attn_output": (hidden, hidden),
        "blk.0.ffn_gate": (intermediate, hidden),
        "blk.0.ffn_up": (intermediate, hidden),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    down = gguf.quantize(rng.normal(size=(hidden, intermediate)).astype(np.float32), gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("blk.0.ffn_down.weight", down, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
