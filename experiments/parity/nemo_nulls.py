"""Golden file for tests/interop/test_settings.py: what NeMo 3.0 makes of settings that are null or missing.

    python experiments/parity/nemo_nulls.py tests/interop/golden      # needs the `parity` extra

Each array is NeMo's log-probabilities, [frames, classes], of the shortest recording of conformer.npz, for
conformer.nemo with one setting changed. Its name is "section.key=value" with the value as YAML, or "section.key=" for
a missing one.
"""

from __future__ import annotations

import io
import logging
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import yaml

CHANGES = (  # not those of the mel bands and the window, which the file holds as tensors too
    "preprocessor.normalize=null", "preprocessor.normalize=NA", "preprocessor.preemph=null", "preprocessor.preemph=",
    "preprocessor.mag_power=1.0", "preprocessor.log_zero_guard_value=eps", "preprocessor.n_fft=null",
    "encoder.xscaling=null", "encoder.xscaling=", "encoder.att_context_size=null",
)  # fmt: skip


def changed(source: Path, change: str, out: Path) -> None:
    """Write a copy of a .nemo with one setting changed."""
    place, _, value = change.partition("=")
    section, key = place.split(".")
    with tarfile.open(source) as old, tarfile.open(out, "w") as new:
        for member in old.getmembers():
            data = old.extractfile(member).read() if member.isfile() else b""
            if member.name.endswith("model_config.yaml"):
                config = yaml.safe_load(data)
                config[section].pop(key, None)
                if value:
                    config[section][key] = yaml.safe_load(value)
                data = yaml.safe_dump(config).encode()
                member.size = len(data)
            new.addfile(member, io.BytesIO(data))


def main() -> None:
    logging.disable(logging.CRITICAL)
    import torch
    from nemo.collections.asr.models import ASRModel

    folder = Path(sys.argv[1])
    golden = np.load(folder / "conformer.npz")
    row = int(golden["lengths"].argmin())
    audio = torch.tensor(golden["audio"][row, : golden["lengths"][row]])[None]
    arrays = {}
    with tempfile.TemporaryDirectory() as temporary:
        for change in CHANGES:
            path = Path(temporary) / "changed.nemo"
            changed(folder / "conformer.nemo", change, path)
            model = ASRModel.restore_from(str(path), map_location="cpu", strict=False).eval()
            with torch.no_grad():
                scores, frames, _ = model(input_signal=audio, input_signal_length=torch.tensor([audio.shape[1]]))
            arrays[change] = scores[0, : frames[0]].numpy()
    np.savez_compressed(folder / "nemo_nulls.npz", **arrays)


if __name__ == "__main__":
    main()
