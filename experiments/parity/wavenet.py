"""Golden files for tests/interop: tiny WaveNets with random weights, run by the public code.

    git clone https://github.com/r9y9/wavenet_vocoder R9Y9; git -C R9Y9 worktree add ../RELEASED 2092a64
    git clone https://github.com/NVIDIA/nv-wavenet NV
    python experiments/parity/wavenet.py R9Y9 RELEASED NV tests/interop/golden     # needs torch

Writes, for r9y9's master with each of its three outputs, for the commit of its released LJSpeech model, and for
nv-wavenet's PyTorch model: wavenet_NAME.pt, a state dict as their training programs save it, and wavenet_NAME.npz:
"x" (what is fed in), "mel", "speaker" where there is one, and "y", the outputs for every sample. For r9y9's also
"noise", the numbers that the public sampler was made to draw instead of its own, and "sampled", what it made of them.
nv-wavenet samples in CUDA alone, so there is nothing of that to compare with.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np

BANDS, FRAMES, CLASSES, MIXTURES = 6, 8, 32, 3
MASTER = {"logistics": 3 * MIXTURES, "gaussian": 2, "mulaw": CLASSES}
SIZES = dict(layers=4, stacks=2, residual_channels=8, gate_channels=12, skip_out_channels=7, kernel_size=3, dropout=0.0)


def main(master: str, released: str, nvidia: str, out: str) -> None:
    import torch

    if not hasattr(torch.nn.functional, "tanh"):  # the code of 2018 calls them there
        torch.nn.functional.tanh, torch.nn.functional.sigmoid = torch.tanh, torch.sigmoid
    folder = Path(out)
    for number, (output, channels) in enumerate(MASTER.items()):
        r9y9(torch, load(master, "wavenet_vocoder"), folder / f"wavenet_{output}", number, output, channels, dict(
            cin_channels=BANDS, cin_pad=1, gin_channels=3 if output == "gaussian" else -1, n_speakers=2,
            use_speaker_embedding=output == "gaussian", upsample_conditional_features=True,
            upsample_params={"upsample_scales": [2, 3], "cin_pad": 1, "cin_channels": BANDS},
            output_distribution="Normal" if output == "gaussian" else "Logistic",
        ))  # fmt: skip
    r9y9(torch, load(released, "wavenet_vocoder"), folder / "wavenet_released", 7, "logistics", 3 * MIXTURES, dict(
        cin_channels=BANDS, upsample_conditional_features=True, upsample_scales=[2, 3], freq_axis_kernel_size=3,
        weight_normalization=True,
    ))  # fmt: skip
    sys.path.insert(0, str(Path(nvidia) / "pytorch"))
    nv(torch, folder / "wavenet_nvidia")


def load(clone: str, package: str):
    """The package of that clone, in place of one of the same name from another clone."""
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        del sys.modules[name]
    path = Path(clone) / package
    if not (path / "version.py").exists():  # their setup.py writes it
        (path / "version.py").write_text("version = __version__ = '0'\n")
    sys.path.insert(0, clone)
    try:
        return importlib.import_module(package)
    finally:
        sys.path.remove(clone)


def shaken(torch, network, seed: int) -> None:
    """Random biases and filters, which start as 0 and as means."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("bias") or "upsample" in name:
                value.add_(0.2 * torch.rand(value.shape, generator=generator))


def r9y9(torch, package, path: Path, seed: int, output: str, channels: int, settings: dict) -> None:
    torch.manual_seed(seed)
    scalar = output != "mulaw"
    network = package.WaveNet(out_channels=channels, scalar_input=scalar, **SIZES, **settings).eval()
    shaken(torch, network, seed)
    rng = np.random.default_rng(seed)
    pad = settings.get("cin_pad", 0)
    mel = rng.normal(size=(1, BANDS, FRAMES + 2 * pad)).astype(np.float32)
    samples = FRAMES * 6
    speaker = torch.tensor([[1]]) if settings.get("use_speaker_embedding") else None
    if scalar:
        given = rng.uniform(-1, 1, (1, samples)).astype(np.float32)
        x = torch.tensor(given[:, None])
    else:
        given = rng.integers(0, CLASSES, (1, samples))
        x = torch.nn.functional.one_hot(torch.tensor(given), CLASSES).transpose(1, 2).float()
    torch.save({"state_dict": network.state_dict(), "global_step": 5, "optimizer": None}, path.with_suffix(".pt"))
    width = {"gaussian": 1, "logistics": MIXTURES + 1, "mulaw": 1}[output]
    noise = rng.normal(size=(samples, width)) if output == "gaussian" else rng.uniform(0.01, 0.99, (samples, width))
    noise = noise.astype(np.float32)
    first = torch.zeros(1, 1, 1)
    if not scalar:
        first = torch.nn.functional.one_hot(torch.tensor([[CLASSES // 2]]), CLASSES).float()
    with torch.no_grad():
        y = network(x, c=torch.tensor(mel), g=speaker)
        with drawing(torch, package, noise):
            made = network.incremental_forward(
                first.transpose(1, 2), c=torch.tensor(mel), g=speaker, T=samples, softmax=True, quantize=True
            )
    sampled = made[:, 0] if scalar else made.argmax(dim=1)
    arrays = {"x": given, "mel": mel, "y": y.numpy(), "noise": noise[None], "sampled": sampled.numpy()}
    if speaker is not None:
        arrays["speaker"] = np.array([1])
    np.savez_compressed(path.with_suffix(".npz"), **arrays)


class drawing:  # noqa: N801 - a context manager
    """Within it the public samplers draw the numbers of `noise`, one row a sample."""

    def __init__(self, torch, package, noise: np.ndarray):
        self.torch, self.mixture, self.left = torch, importlib.import_module(f"{package.__name__}.mixture"), list(noise)
        self.row: list[float] = []

    def __enter__(self):
        torch, outer = self.torch, self
        self.old = torch.Tensor.uniform_, torch.distributions.OneHotCategorical, getattr(self.mixture, "Normal", None)

        def uniform(tensor, *_):
            if not outer.row:
                outer.row = list(outer.left.pop(0))
            count = tensor.numel()
            values, outer.row = outer.row[:count], outer.row[count:]
            return tensor.copy_(torch.tensor(values).reshape(tensor.shape))

        class Normal:
            def __init__(self, loc, scale):
                self.loc, self.scale = loc, scale

            def sample(self):
                return self.loc + self.scale * float(outer.left.pop(0)[0])

        class OneHotCategorical:
            def __init__(self, probabilities):
                self.p = probabilities

            def sample(self):
                below = int((torch.cumsum(self.p, dim=-1) <= float(outer.left.pop(0)[0])).sum())
                return torch.nn.functional.one_hot(torch.tensor([min(below, CLASSES - 1)]), CLASSES).float()

        torch.Tensor.uniform_, torch.distributions.OneHotCategorical = uniform, OneHotCategorical
        if self.old[2] is not None:
            self.mixture.Normal = Normal

    def __exit__(self, *_):
        self.torch.Tensor.uniform_, self.torch.distributions.OneHotCategorical = self.old[:2]
        if self.old[2] is not None:
            self.mixture.Normal = self.old[2]


def nv(torch, path: Path) -> None:
    torch.nn.init.xavier_uniform = torch.nn.init.xavier_uniform_
    public = importlib.import_module("wavenet")
    torch.manual_seed(11)
    network = public.WaveNet(
        n_in_channels=CLASSES, n_layers=4, max_dilation=2, n_residual_channels=8, n_skip_channels=7,
        n_out_channels=CLASSES, n_cond_channels=BANDS, upsamp_window=15, upsamp_stride=6,
    ).eval()  # fmt: skip
    rng = np.random.default_rng(11)
    mel, x = rng.normal(size=(1, BANDS, FRAMES)).astype(np.float32), rng.integers(0, CLASSES, (1, FRAMES * 6))
    with torch.no_grad():
        y = network((torch.tensor(mel), torch.tensor(x)))
    # It moves its outputs on by one and puts zeros in front: output t is what was said of x[t], having seen x[t - 1].
    torch.save({"state_dict": network.state_dict()}, path.with_suffix(".pt"))
    np.savez_compressed(path.with_suffix(".npz"), x=x, mel=mel, y=y.numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
