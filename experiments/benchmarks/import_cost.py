"""Time and memory of `convert` for Conformer-CTC large (121 million parameters).

    python -m experiments.benchmarks.import_cost make large.nemo      # in an environment with nemo_toolkit[asr]
    python -m experiments.benchmarks.import_cost measure large.nemo   # in ours

The file has NeMo's large configuration and random weights. Memory is the greatest resident size of the process, with
the interpreter and its libraries; the same after the imports alone is printed beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import time


def make(path: str) -> None:
    """Writes the .nemo file."""
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import OmegaConf

    letters = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
    preprocessor = dict(_target_="nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor", sample_rate=16_000,
                        normalize="per_feature", window_size=0.025, window_stride=0.01, window="hann", features=80,
                        n_fft=512, frame_splicing=1, dither=1e-5, pad_to=0)  # fmt: skip
    encoder = dict(_target_="nemo.collections.asr.modules.ConformerEncoder", feat_in=80, n_layers=18, d_model=512,
                   n_heads=8, subsampling="striding", subsampling_factor=4, conv_kernel_size=31)  # fmt: skip
    decoder = dict(_target_="nemo.collections.asr.modules.ConvASRDecoder", feat_in=512, num_classes=len(letters),
                   vocabulary=letters)  # fmt: skip
    config = dict(sample_rate=16_000, labels=letters, preprocessor=preprocessor, encoder=encoder, decoder=decoder)
    EncDecCTCModel(cfg=OmegaConf.create(config)).save_to(path)


def child(*command: str) -> tuple[float, float]:
    """(seconds, greatest resident size in MB) of a Python process of its own."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: ended with status {status}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def measure(path: str) -> None:
    """Prints the figures."""
    with tarfile.open(path) as archive:
        weights = max(member.size for member in archive.getmembers()) / 2**20
    _, imports = child("-c", "import speech_jax.convert")
    with tempfile.TemporaryDirectory() as folder:
        seconds, peak = child("-m", "speech_jax.convert", path, "--out", f"{folder}/out")
    print(f"weights {weights:.0f} MB; {seconds:.1f} s; greatest resident size {peak:.0f} MB")
    alone = (peak - imports) / weights
    print(f"= {peak / weights:.2f} × the weights; {alone:.2f} × without the {imports:.0f} MB of the imports")


if __name__ == "__main__":
    {"make": make, "measure": measure}[sys.argv[1]](sys.argv[2])
