"""Write a llama model of half a megabyte, or a slow one of 240: random weights, real format.

Owns the files that `ollama create` imports. The model says nothing sensible and does so in
milliseconds, which is what a proxy's tests need: a real server, real streams, no download. The
random numbers are seeded, so every machine builds the same bytes and the same digest.

    python tiny_gguf.py OUTPUT.gguf [slow]

The slow one takes some 20 ms a token, on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np

SLOW = sys.argv[2:] == ["slow"]
LAYERS, WIDTH, FEED_FORWARD = (6, 768, 3072) if SLOW else (2, 64, 128)
HEADS, KV_HEADS = (12, 6) if SLOW else (4, 2)
CONTEXT = 512

SPECIALS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["\u2581", "e", "a", "o", "n", "t", "\u2581the", "\u2581a", "\u2581and", "\u2581is"]
VOCABULARY = SPECIALS + BYTES + PIECES


def main(output: Path) -> None:
    writer = gguf.GGUFWriter(output, "llama")
    describe(writer)
    add_tokenizer(writer)
    add_tensors(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer: gguf.GGUFWriter) -> None:
    writer.add_name("slow" if SLOW else "tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    kinds = (
        [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
        + [gguf.TokenType.BYTE] * len(BYTES)
        + [gguf.TokenType.NORMAL] * len(PIECES)
    )
    # Pieces are preferred to bytes, longer pieces to shorter ones.
    scores = [0.0] * (len(SPECIALS) + len(BYTES)) + [float(len(piece)) for piece in PIECES]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def add_tensors(writer: gguf.GGUFWriter) -> None:
    random = np.random.default_rng(seed=1)

    def weights(name: str, rows: int, columns: int) -> None:
        # One over the root of the width keeps activations near 1 through the layers.
        values = random.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(WIDTH)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))

    kv_width = WIDTH // HEADS * KV_HEADS
    weights("token_embd", len(VOCABULARY), WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        weights(f"{block}.attn_q", WIDTH, WIDTH)
        weights(f"{block}.attn_k", kv_width, WIDTH)
        weights(f"{block}.attn_v", kv_width, WIDTH)
        weights(f"{block}.attn_output", WIDTH, WIDTH)
        norm(f"{block}.ffn_norm")
        weights(f"{block}.ffn_gate", FEED_FORWARD, WIDTH)
        weights(f"{block}.ffn_up", FEED_FORWARD, WIDTH)
        weights(f"{block}.ffn_down", WIDTH, FEED_FORWARD)
    norm("output_norm")
    weights("output", len(VOCABULARY), WIDTH)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
