"""Tiny models in hub format: random weights, real shapes, a tokenizer trained on a few lines."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3Model,
)

END_OF_TEXT = "<|endoftext|>"
TURN, TURN_END = "<|im_start|>", "<|im_end|>"
LINES = (
    "Why is the sky blue? Because air scatters short waves more than long ones.",
    "system user assistant You are a helpful assistant. Hello, how are you today?",
    "Instruct: Given a search query, retrieve relevant passages that answer the query",
    "ÄÖÜ äöü ß é 中文 日本語 0123456789 {}[]()<>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_embedder(folder: Path, *, hidden_size: int = 64) -> Path:
    """A Qwen3 whose tokenizer ends each text with a token of its own, as Qwen3-Embedding's."""
    tokenizer = _tokenizer(ends_texts=True)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=512,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # So large that places and neighbours matter: fresh weights make all texts alike.
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1:
                torch.nn.init.normal_(weights, std=0.3 if "embed" in name else 0.2)
    model.save_pretrained(folder)
    return folder


def save_chat_model(folder: Path) -> Path:
    """A Qwen2 that says something random."""
    tokenizer = _tokenizer(ends_texts=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            eos_token_id=tokenizer.convert_tokens_to_ids(TURN_END),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    model.generation_config.do_sample = False
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    return folder


def _tokenizer(*, ends_texts: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE, trained: an untrained one has no bytes and loses what it does not know."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=[END_OF_TEXT, TURN, TURN_END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if ends_texts:
        inner.post_processor = processors.TemplateProcessing(
            single=f"$A {END_OF_TEXT}",
            special_tokens=[(END_OF_TEXT, inner.token_to_id(END_OF_TEXT))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=END_OF_TEXT,
        eos_token=END_OF_TEXT if ends_texts else TURN_END,
    )
