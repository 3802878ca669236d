"""Golden files for tests/models: tiny Conformer-CTC networks of NeMo 3.0 with random weights, and what they compute.

    python experiments/parity/nemo_conformer.py tests/models/golden      # needs the `parity` extra

Each .npz holds NeMo's state dict under its own names ("encoder....", "decoder...."), "features" [batch, time, bands],
"lengths" and "log_probs" [batch, time', vocab] in evaluation mode. Nothing is pickled.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np

BANDS, WIDTH, LAYERS, HEADS, CLASSES = 12, 16, 2, 2, 9

MODELS = {
    "conformer_4x": dict(
        subsampling="striding", subsampling_factor=4, subsampling_conv_channels=-1, conv_kernel_size=7
    ),
    "fastconformer_8x": dict(
        subsampling="dw_striding", subsampling_factor=8, subsampling_conv_channels=8, conv_kernel_size=5
    ),
    "conformer_layer_norm": dict(
        subsampling="striding", subsampling_factor=4, subsampling_conv_channels=6, conv_kernel_size=5,
        conv_norm_type="layer_norm", xscaling=False, use_bias=False,
    ),
}  # fmt: skip


def main() -> None:
    logging.disable(logging.CRITICAL)
    import torch
    from nemo.collections.asr.modules.conformer_encoder import ConformerEncoder
    from nemo.collections.asr.modules.conv_asr import ConvASRDecoder

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, settings in MODELS.items():
        torch.manual_seed(0)
        encoder = ConformerEncoder(feat_in=BANDS, n_layers=LAYERS, d_model=WIDTH, n_heads=HEADS, **settings).eval()
        words = [str(i) for i in range(CLASSES - 1)]
        decoder = ConvASRDecoder(feat_in=WIDTH, num_classes=CLASSES - 1, vocabulary=words).eval()
        state = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
        state |= {f"decoder.{k}": v for k, v in decoder.state_dict().items()}
        with torch.no_grad():
            for key, value in state.items():  # biases, norms and statistics start as 0 and 1, which hide mistakes
                if value.is_floating_point() and (value.ndim == 1 or "pos_bias" in key):
                    value.copy_(value + 0.3 * torch.rand_like(value))
        features = torch.randn(3, BANDS, 83)
        lengths = torch.tensor([83, 56, 9])
        with torch.no_grad():
            encoded, out_lengths = encoder(audio_signal=features, length=lengths)
            log_probs = decoder(encoder_output=encoded)
        arrays = {k: v.numpy() for k, v in state.items() if not k.endswith("num_batches_tracked")}
        np.savez_compressed(
            folder / f"{name}.npz",
            features=features.transpose(1, 2).numpy(), lengths=lengths.numpy(), log_probs=log_probs.numpy(),
            out_lengths=out_lengths.numpy(), **arrays,
        )  # fmt: skip
        print(name, f"{(folder / f'{name}.npz').stat().st_size / 1024:.0f} KiB", tuple(log_probs.shape))


if __name__ == "__main__":
    main()
