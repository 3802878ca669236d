"""Compare exported .nemo and Parakeet checkpoints in the public packages with our own log-probabilities.

python experiments/parity/roundtrip.py write OUT                  # here: converts the golden checkpoints in and out
python experiments/parity/roundtrip.py check OUT                  # in an environment with NeMo and transformers
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np

GOLDEN = Path("tests/interop/golden")


def write(out: Path) -> None:
    from speech_jax import convert

    for source, to, name in (("conformer.nemo", "nemo", "conformer.nemo"),
                             ("fastconformer.nemo", "nemo", "fastconformer.nemo"),
                             ("parakeet", "parakeet", "parakeet")):  # fmt: skip
        convert.main([str(GOLDEN / source), "--out", str(out / "ours" / name)])
        convert.main([str(out / "ours" / name), "--to", to, "--out", str(out / name)])


def check(out: Path) -> None:
    logging.disable(logging.CRITICAL)
    import torch
    from nemo.collections.asr.models import ASRModel
    from transformers import AutoProcessor, ParakeetForCTC

    worst = {}
    for name in ("conformer", "fastconformer"):
        golden = np.load(GOLDEN / f"{name}.npz")
        model = ASRModel.restore_from(str(out / f"{name}.nemo"), map_location="cpu").eval()
        audio, lengths = torch.from_numpy(golden["audio"]), torch.from_numpy(golden["lengths"])
        with torch.no_grad():
            found, frames, _ = model(input_signal=audio, input_signal_length=lengths)
        worst[name] = max(np.abs(found[i, :n].numpy() - golden["log_probs"][i, :n]).max() for i, n in enumerate(frames))
    golden = np.load(GOLDEN / "parakeet.npz")
    processor = AutoProcessor.from_pretrained(out / "parakeet")
    model = ParakeetForCTC.from_pretrained(out / "parakeet").eval()
    signals = [a[:n] for a, n in zip(golden["audio"], golden["lengths"], strict=True)]
    with torch.no_grad():
        found = torch.log_softmax(model(**processor(signals, sampling_rate=16000, return_tensors="pt")).logits, -1)
    frames = golden["out_lengths"]
    worst["parakeet"] = max(
        np.abs(found[i, :n].numpy() - golden["log_probs"][i, :n]).max() for i, n in enumerate(frames)
    )
    text = "the quick brown fox sat"
    print("parakeet's tokenizer:", processor.tokenizer.decode(processor.tokenizer(text).input_ids, group_tokens=False))
    for name, value in worst.items():
        print(f"{name:14} greatest difference of log-probabilities {value:.2e}")


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2]))
