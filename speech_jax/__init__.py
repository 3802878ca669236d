"""Speech recognition and synthesis in pure JAX: fine-tune a model for a new domain without losing the old one.

The names below are the public API. Each is imported from its module when it is first used, so that `import speech_jax`
itself loads neither JAX nor NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from speech_jax.core.version import __version__ as __version__

if TYPE_CHECKING:  # the same names for type checkers and editors
    from speech_jax.audio.augment import spec_augment
    from speech_jax.audio.config import AudioConfig, AugmentConfig
    from speech_jax.audio.features import extract_features
    from speech_jax.audio.griffin_lim import mel_to_wave
    from speech_jax.audio.io import read_audio
    from speech_jax.config import EvalConfig, TrainConfig
    from speech_jax.core.errors import UserError
    from speech_jax.core.types import Bucket, LossOut, Model, Task
    from speech_jax.data.config import DataConfig, PlanConfig, SourceConfig
    from speech_jax.data.manifest import read_manifest
    from speech_jax.data.utterances import Utterance, Utterances
    from speech_jax.decoding.config import BeamConfig
    from speech_jax.decoding.ctc import greedy_decode
    from speech_jax.evaluation.wer import cer, wer
    from speech_jax.finetuning.config import AdapterConfig
    from speech_jax.inference.ctc_recognizer import CTCRecognizer
    from speech_jax.inference.recognizer import Recognizer, load_recognizer
    from speech_jax.inference.vocoder import WaveNetVocoder, load_vocoder
    from speech_jax.inference.voice import Voice, load_voice
    from speech_jax.models.config import ConformerConfig, Tacotron2Config, WaveNetConfig
    from speech_jax.models.conformer import conformer_ctc, conformer_encoder
    from speech_jax.models.crnn import crnn_ctc
    from speech_jax.models.tacotron2 import tacotron2
    from speech_jax.models.wav2vec2 import wav2vec2_ctc
    from speech_jax.models.wavenet import wavenet
    from speech_jax.objectives.config import AlphaConfig
    from speech_jax.objectives.ctc import ctc_loss
    from speech_jax.objectives.mix import combine_gradients, mix
    from speech_jax.objectives.tts import guided_attention_loss
    from speech_jax.tasks.ctc import CTCTaskConfig
    from speech_jax.tasks.pretrain import PretrainTaskConfig
    from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
    from speech_jax.tasks.wavenet import WaveNetTaskConfig
    from speech_jax.text.frontend import make_front_end
    from speech_jax.text.tokenizer import Tokenizer, train_tokenizer
    from speech_jax.training.config import OptimizerConfig, TrainerConfig
    from speech_jax.training.loop import fit

# Public name → module.
_MODULES = {
    "spec_augment": "speech_jax.audio.augment",
    "AudioConfig": "speech_jax.audio.config",
    "AugmentConfig": "speech_jax.audio.config",
    "extract_features": "speech_jax.audio.features",
    "mel_to_wave": "speech_jax.audio.griffin_lim",
    "read_audio": "speech_jax.audio.io",
    "EvalConfig": "speech_jax.config",
    "TrainConfig": "speech_jax.config",
    "UserError": "speech_jax.core.errors",
    "Bucket": "speech_jax.core.types",
    "LossOut": "speech_jax.core.types",
    "Model": "speech_jax.core.types",
    "Task": "speech_jax.core.types",
    "DataConfig": "speech_jax.data.config",
    "PlanConfig": "speech_jax.data.config",
    "SourceConfig": "speech_jax.data.config",
    "read_manifest": "speech_jax.data.manifest",
    "Utterance": "speech_jax.data.utterances",
    "Utterances": "speech_jax.data.utterances",
    "BeamConfig": "speech_jax.decoding.config",
    "greedy_decode": "speech_jax.decoding.ctc",
    "cer": "speech_jax.evaluation.wer",
    "wer": "speech_jax.evaluation.wer",
    "AdapterConfig": "speech_jax.finetuning.config",
    "CTCRecognizer": "speech_jax.inference.ctc_recognizer",
    "Recognizer": "speech_jax.inference.recognizer",
    "load_recognizer": "speech_jax.inference.recognizer",
    "WaveNetVocoder": "speech_jax.inference.vocoder",
    "load_vocoder": "speech_jax.inference.vocoder",
    "Voice": "speech_jax.inference.voice",
    "load_voice": "speech_jax.inference.voice",
    "ConformerConfig": "speech_jax.models.config",
    "Tacotron2Config": "speech_jax.models.config",
    "WaveNetConfig": "speech_jax.models.config",
    "conformer_ctc": "speech_jax.models.conformer",
    "conformer_encoder": "speech_jax.models.conformer",
    "crnn_ctc": "speech_jax.models.crnn",
    "tacotron2": "speech_jax.models.tacotron2",
    "wav2vec2_ctc": "speech_jax.models.wav2vec2",
    "wavenet": "speech_jax.models.wavenet",
    "AlphaConfig": "speech_jax.objectives.config",
    "ctc_loss": "speech_jax.objectives.ctc",
    "combine_gradients": "speech_jax.objectives.mix",
    "mix": "speech_jax.objectives.mix",
    "guided_attention_loss": "speech_jax.objectives.tts",
    "CTCTaskConfig": "speech_jax.tasks.ctc",
    "PretrainTaskConfig": "speech_jax.tasks.pretrain",
    "Tacotron2TaskConfig": "speech_jax.tasks.tacotron2",
    "WaveNetTaskConfig": "speech_jax.tasks.wavenet",
    "make_front_end": "speech_jax.text.frontend",
    "Tokenizer": "speech_jax.text.tokenizer",
    "train_tokenizer": "speech_jax.text.tokenizer",
    "OptimizerConfig": "speech_jax.training.config",
    "TrainerConfig": "speech_jax.training.config",
    "fit": "speech_jax.training.loop",
}

# Written out, because type checkers read it.
__all__ = [
    "AdapterConfig",
    "AlphaConfig",
    "AudioConfig",
    "AugmentConfig",
    "BeamConfig",
    "Bucket",
    "CTCRecognizer",
    "CTCTaskConfig",
    "ConformerConfig",
    "DataConfig",
    "EvalConfig",
    "LossOut",
    "Model",
    "OptimizerConfig",
    "PlanConfig",
    "PretrainTaskConfig",
    "Recognizer",
    "SourceConfig",
    "Tacotron2Config",
    "Tacotron2TaskConfig",
    "Task",
    "Tokenizer",
    "TrainConfig",
    "TrainerConfig",
    "UserError",
    "Utterance",
    "Utterances",
    "Voice",
    "WaveNetConfig",
    "WaveNetTaskConfig",
    "WaveNetVocoder",
    "cer",
    "combine_gradients",
    "conformer_ctc",
    "conformer_encoder",
    "crnn_ctc",
    "ctc_loss",
    "extract_features",
    "fit",
    "greedy_decode",
    "guided_attention_loss",
    "load_recognizer",
    "load_vocoder",
    "load_voice",
    "make_front_end",
    "mel_to_wave",
    "mix",
    "read_audio",
    "read_manifest",
    "spec_augment",
    "tacotron2",
    "train_tokenizer",
    "wav2vec2_ctc",
    "wavenet",
    "wer",
]


if not TYPE_CHECKING:  # to which any name would be right then

    def __getattr__(name: str) -> Any:
        """Import a public name from its module and keep it."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
