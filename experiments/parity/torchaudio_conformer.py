"""Golden files for tests/interop/test_torchaudio.py: tiny models around torchaudio's Conformer, with random weights.

    PYTHONPATH=WHEEL python experiments/parity/torchaudio_conformer.py tests/interop/golden      # needs torch

WHEEL is a folder with torchaudio 2.11's wheel unpacked: models/conformer.py needs torch alone and is loaded by itself,
because `import torchaudio` fails where torch is the one for CPUs. For each model a state dict in a .pt and an .npz with
"features_0", … and "log_probs_0", …, one utterance at a time: torchaudio's convolutions see the padding.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

LENGTHS = (60, 41, 7)
MODELS = {
    "torchaudio_batch": dict(features=24, width=24, heads=4, hidden=30, layers=2, kernel=7),
    "torchaudio_group": dict(features=20, width=16, heads=2, hidden=40, layers=3, kernel=5, group=True, first=True),
}
CLASSES = 12


def load_conformer():
    folder = importlib.util.find_spec("torchaudio").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("conformer", Path(folder) / "models" / "conformer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Conformer


class Recognizer(torch.nn.Module):
    """Linear map (where the widths differ), Conformer, linear head."""

    def __init__(self, features, width, heads, hidden, layers, kernel, group=False, first=False):
        super().__init__()
        self.input_linear = torch.nn.Linear(features, width) if features != width else torch.nn.Identity()
        self.encoder = load_conformer()(
            width, heads, hidden, layers, kernel, use_group_norm=group, convolution_first=first
        )
        self.output_linear = torch.nn.Linear(width, CLASSES)

    def forward(self, x):
        x, _ = self.encoder(self.input_linear(x), torch.tensor([x.shape[1]]))
        return torch.log_softmax(self.output_linear(x), -1)


def randomize(model) -> None:
    """Values that hide no mistake: no bias is 0, no norm 1, and the scores differ from frame to frame."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            if value.ndim == 1:
                value.add_(0.3 * torch.rand(value.shape, generator=generator))
            else:
                gain = 4.0 if name.startswith("output_linear") else 1.5
                deviation = gain / np.sqrt(np.prod(value.shape[1:]))
                value.copy_(deviation * torch.randn(value.shape, generator=generator))


def make(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    model = Recognizer(**MODELS[name]).eval()
    randomize(model)
    state = model.state_dict()
    # a bare state dict, and what a training program saves around it
    torch.save(state if name == "torchaudio_batch" else {"epoch": 3, "model": state}, folder / f"{name}.pt")
    generator = torch.Generator().manual_seed(2)
    arrays = {}
    for row, n in enumerate(LENGTHS):
        x = torch.randn((1, n, MODELS[name]["features"]), generator=generator)
        with torch.no_grad():
            arrays |= {f"features_{row}": x[0].numpy(), f"log_probs_{row}": model(x)[0].numpy()}
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    sizes = [f"{(folder / (name + end)).stat().st_size / 1024:.0f} KiB" for end in (".pt", ".npz")]
    print(name, *sizes, f"deviation over time {arrays['log_probs_0'].std(axis=0).mean():.2f}")


if __name__ == "__main__":
    for name in MODELS:
        make(name, Path(sys.argv[1]))
