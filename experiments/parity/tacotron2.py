"""Golden files for tests/interop: a tiny Tacotron 2 with random weights, run by NVIDIA's public code.

    git clone https://github.com/NVIDIA/tacotron2 CLONE
    python experiments/parity/tacotron2.py CLONE tests/interop/golden     # needs torch, librosa and scipy

Writes tacotron2.pt (a checkpoint as its train.py saves it), legacy.pt (some of it in the format before torch 1.6) and
tacotron2.npz: text, lengths, mels; for each utterance alone the encoder's output, teacher-forced frames before and
after the post-net, stop logits and alignment; and free-running frames. The prenet's dropout, which has no seed that
could be shared, is switched off.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np

SIZES = dict(
    n_symbols=148, symbols_embedding_dim=16, encoder_kernel_size=5, encoder_n_convolutions=3, encoder_embedding_dim=16,
    n_mel_channels=10, n_frames_per_step=1, decoder_rnn_dim=20, prenet_dim=12, max_decoder_steps=200,
    gate_threshold=2.0, p_attention_dropout=0.1, p_decoder_dropout=0.1, attention_rnn_dim=24, attention_dim=8,
    attention_location_n_filters=4, attention_location_kernel_size=7, postnet_embedding_dim=16, postnet_kernel_size=5,
    postnet_n_convolutions=5, mask_padding=True, fp16_run=False,
)  # fmt: skip


def main(clone: str, out: str) -> None:
    import torch

    sys.path.insert(0, clone)
    torch.cuda.LongTensor = torch.LongTensor  # its masks are made on a GPU
    import model as public

    public.F.dropout = lambda x, p=0.5, training=False: x  # everything is compared in evaluation, the prenet too
    torch.manual_seed(0)
    network = public.Tacotron2(types.SimpleNamespace(**SIZES)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point() and value.ndim == 1:  # biases, norms and statistics start as 0 and 1
                value.add_(0.3 * torch.rand(value.shape, generator=generator))
            elif "attention_layer" in name:
                value.mul_(3.0)  # or it looks everywhere alike
    rng = np.random.default_rng(0)
    text = rng.integers(1, 148, (3, 14))
    text_lengths, mel_lengths = np.array([14, 11, 6]), np.array([30, 25, 12])
    mels = rng.normal(size=(3, 10, 30)).astype(np.float32)
    for row in range(3):
        text[row, text_lengths[row] :] = 0
        mels[row, :, mel_lengths[row] :] = 0.0
    found = {name: [] for name in ("encoded", "before", "after", "stop", "weights")}
    with torch.no_grad():
        for row, (n, m) in enumerate(zip(text_lengths, mel_lengths, strict=True)):
            # alone: the public convolutions let the padding in
            one, lengths = torch.tensor(text[row : row + 1, :n]), (torch.tensor([n]), torch.tensor([m]))
            outputs = network((one, lengths[0], torch.tensor(mels[row : row + 1, :, :m]), int(m), lengths[1]))
            encoded = network.encoder(network.embedding(one).transpose(1, 2), lengths[0])
            for name, value in zip(found, (encoded, *outputs), strict=True):
                found[name].append(value[0].numpy())
        free_before, free_after, free_stop, free_weights = network.inference(torch.tensor(text[:1]))
    folder = Path(out)
    torch.save({"state_dict": network.state_dict(), "iteration": 7, "learning_rate": 1e-3}, folder / "tacotron2.pt")
    # NVIDIA's released files are older than torch 1.6: the same tensors again in that format, a few of them
    few = {f"module.{n}": a for n, a in network.state_dict().items() if n.startswith("decoder.attention_layer")}
    extra = {"turned": few["module.decoder.attention_layer.v.linear_layer.weight"].T, "half": torch.arange(5).half()}
    old = {
        "state_dict": few,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
        **extra,
    }
    torch.save(old, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    arrays = dict(
        text=text, text_lengths=text_lengths, mels=mels, mel_lengths=mel_lengths, free_before=free_before,
        free_after=free_after, free_stop=free_stop, free_weights=free_weights,
        **{f"{name}_{row}": value for name, values in found.items() for row, value in enumerate(values)},
    )  # fmt: skip
    np.savez_compressed(folder / "tacotron2.npz", **{name: np.asarray(a) for name, a in arrays.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
