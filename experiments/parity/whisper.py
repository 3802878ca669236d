"""Golden file for tests/models/test_whisper.py: a tiny Whisper with random weights, and what transformers computes.

    python experiments/parity/whisper.py tests/models/golden      # needs torch and transformers

whisper.npz holds the tensors by their names, an input of full length and the outputs: transformers takes no other
length, so the network's positions are as few as the input needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

FRAMES, MELS, VOCABULARY = 26, 7, 53
CONFIG = WhisperConfig(
    vocab_size=VOCABULARY, num_mel_bins=MELS, d_model=20, encoder_layers=3, decoder_layers=2, encoder_attention_heads=5,
    decoder_attention_heads=5, encoder_ffn_dim=28, decoder_ffn_dim=28, max_source_positions=FRAMES // 2,
    max_target_positions=11, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
)  # fmt: skip


def randomize(model: torch.nn.Module) -> None:
    """Values that hide no mistake: no bias is 0, no norm 1; the encoder's positions stay."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "encoder.embed_positions" in name:
                continue
            if value.ndim == 1:
                value.add_(0.3 * torch.rand(value.shape, generator=generator))
            else:
                value.copy_(1.5 / np.sqrt(np.prod(value.shape[1:])) * torch.randn(value.shape, generator=generator))


def main() -> None:
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(CONFIG).eval()
    randomize(model)
    generator = torch.Generator().manual_seed(2)
    features = torch.randn((2, MELS, FRAMES), generator=generator)
    tokens = torch.randint(3, VOCABULARY, (2, 9), generator=generator)
    with torch.no_grad():
        outputs = model(input_features=features, decoder_input_ids=tokens)
    arrays = {name: value.numpy() for name, value in model.state_dict().items() if name != "proj_out.weight"}
    arrays |= {
        "features": features.transpose(1, 2).numpy(), "tokens": tokens.numpy(), "logits": outputs.logits.numpy(),
        "encoded": outputs.encoder_last_hidden_state.numpy(),
    }  # fmt: skip
    np.savez_compressed(Path(sys.argv[1]) / "whisper.npz", **arrays)


if __name__ == "__main__":
    main()
