"""Golden files for tests/interop/test_wav2vec2.py: tiny wav2vec 2.0 models with random weights, and what they compute.

    python experiments/parity/wav2vec2.py tests/interop/golden      # needs torch and transformers

For each model a folder as Hugging Face has them, and an .npz with "log_probs_0", … [frames, classes] of the waveforms
of `checkpoints.py`, one at a time: in transformers the group norm and Wav2Vec2-Conformer depend on the padding.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from checkpoints import RATE, waveforms
from transformers import Wav2Vec2Config, Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC, Wav2Vec2FeatureExtractor
from transformers import Wav2Vec2ForCTC as Wav2Vec2

LETTERS = "ETAOINSHRDLUMWCFGYPBVK'XJQZ"
TINY = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, conv_dim=(12,) * 7,
            num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, vocab_size=32)  # fmt: skip
LAYER = dict(feat_extract_norm="layer", conv_bias=True)
MODELS = {
    "wav2vec2_base": (Wav2Vec2, Wav2Vec2Config(**TINY)),
    # the blank not first, the old names of the weight norm and of the file, an odd kernel
    "wav2vec2_large": (
        Wav2Vec2,
        Wav2Vec2Config(**TINY | LAYER | dict(do_stable_layer_norm=True, num_conv_pos_embeddings=7, pad_token_id=31)),
    ),
    "wav2vec2_conformer_relative": (
        Wav2Vec2ConformerForCTC,
        Wav2Vec2ConformerConfig(**TINY | LAYER, conv_depthwise_kernel_size=5, hidden_act="swish"),
    ),
    "wav2vec2_conformer_rotary": (
        Wav2Vec2ConformerForCTC,
        Wav2Vec2ConformerConfig(**TINY, conv_depthwise_kernel_size=7, position_embeddings_type="rotary"),
    ),
    "wav2vec2_conformer_plain": (
        Wav2Vec2ConformerForCTC,
        Wav2Vec2ConformerConfig(**TINY | LAYER, conv_depthwise_kernel_size=5, position_embeddings_type=None),
    ),
}


def randomize(model) -> None:
    """Values that hide no mistake: no bias is 0, no norm 1, and the scores differ from frame to frame."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point() or "inv_freq" in name:
                continue
            if name.endswith("original0") or value.ndim == 1 or "pos_bias" in name:
                value.add_(0.3 * torch.rand(value.shape, generator=generator))
            else:
                gain = 4.0 if name.startswith("lm_head") else 1.5
                deviation = gain / np.sqrt(np.prod(value.shape[1:]))
                value.copy_(deviation * torch.randn(value.shape, generator=generator))


def write_tokens(folder: Path, blank: int) -> None:
    """The vocabularies of facebook's models, and of those that were made with the well-known fine-tuning recipe."""
    if blank == 0:
        vocab = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
        options = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "word_delimiter_token": "|", "do_lower_case": False}
    else:
        vocab = ["|", *LETTERS.lower(), "<s>", "</s>", "[UNK]", "[PAD]"]
        options = {"word_delimiter_token": "|", "pad_token": "[PAD]", "unk_token": {"content": "[UNK]"}}
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(vocab)})
    write_json(folder / "tokenizer_config.json", options)


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def old_names(tensors: dict) -> dict:
    """The weight norm as torch before 2.1 wrote it."""
    pairs = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, old in pairs.items():
        tensors = {name.replace(new, old): a for name, a in tensors.items()}
    return tensors


def make(name: str, folder: Path) -> None:
    kind, config = MODELS[name]
    torch.manual_seed(0)
    model = kind(config).eval()
    randomize(model)
    out = folder / name
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    if name == "wav2vec2_large":
        (out / "model.safetensors").unlink()
        torch.save(old_names(model.state_dict()), out / "pytorch_model.bin")
    extractor = Wav2Vec2FeatureExtractor(do_normalize=name != "wav2vec2_conformer_plain")
    extractor.save_pretrained(out)
    write_tokens(out, config.pad_token_id)
    audio, lengths = waveforms()
    scores = {}
    for row, n in enumerate(lengths):
        inputs = extractor(audio[row, :n], sampling_rate=RATE, return_tensors="pt").input_values
        with torch.no_grad():
            scores[f"log_probs_{row}"] = torch.log_softmax(model(inputs).logits, -1)[0].numpy()
    np.savez_compressed(folder / f"{name}.npz", **scores)
    first = scores["log_probs_0"]
    size = sum(p.stat().st_size for p in out.iterdir()) + (folder / f"{name}.npz").stat().st_size
    print(name, f"{size / 1024:.0f} KiB", first.shape, f"deviation over time {first.std(axis=0).mean():.2f}")


if __name__ == "__main__":
    for name in MODELS:
        make(name, Path(sys.argv[1]))
