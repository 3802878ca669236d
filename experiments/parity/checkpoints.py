"""Golden files for tests/interop: tiny public checkpoints with random weights, and what they compute from a waveform.

    python experiments/parity/checkpoints.py tests/interop/golden      # needs the `parity` extra and transformers

Writes conformer.nemo (4x, BPE), fastconformer.nemo (8x, characters), parakeet/ (a Hugging Face folder) and for each an
.npz with "audio" [batch, samples], "lengths", "log_probs" [batch, frames, classes] and "out_lengths", all computed by
the public package from the waveform, in a padded batch and in evaluation mode.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

TEXTS = ["the quick brown fox jumps over the lazy dog", "a cat sat on the mat", "press one for the office", "good day"]
ENCODER = dict(feat_in=24, n_layers=2, d_model=16, n_heads=2)
NEMO = {
    "conformer": dict(subsampling="striding", subsampling_factor=4, conv_kernel_size=7),
    "fastconformer": dict(
        subsampling="dw_striding", subsampling_factor=8, subsampling_conv_channels=8, conv_kernel_size=5
    ),
}
RATE = 16_000


def waveforms():
    """Three signals of different lengths, colored noise with a tone, padded with zeros."""
    rng = np.random.default_rng(0)
    lengths = np.array([19_000, 12_345, 7_000])
    audio = np.zeros((3, lengths.max()), np.float32)
    for row, n in zip(audio, lengths, strict=True):
        row[:n] = np.convolve(rng.normal(size=n), np.ones(5) / 5, "same") * 0.2
        row[:n] += 0.1 * np.sin(2 * np.pi * rng.uniform(200, 3000) * np.arange(n) / RATE)
    return audio, lengths


def randomize(model, torch) -> None:
    """Biases, norms and statistics start as 0 and 1, which hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and (value.ndim == 1 or "bias_" in name) and "featurizer" not in name:
                value.add_(0.3 * torch.rand(value.shape, generator=generator))


def make_nemo(name: str, folder: Path) -> None:
    import sentencepiece
    import torch
    from nemo.collections.asr.models import EncDecCTCModel, EncDecCTCModelBPE
    from omegaconf import OmegaConf

    torch.manual_seed(0)
    preprocessor = dict(_target_="nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor", sample_rate=RATE,
                        normalize="per_feature", window_size=0.025, window_stride=0.01, window="hann", features=24,
                        n_fft=512, frame_splicing=1, dither=1e-5, pad_to=0)  # fmt: skip
    encoder = dict(_target_="nemo.collections.asr.modules.ConformerEncoder", **ENCODER, **NEMO[name])
    decoder = dict(_target_="nemo.collections.asr.modules.ConvASRDecoder", feat_in=16, num_classes=-1, vocabulary=[])
    config = dict(sample_rate=RATE, preprocessor=preprocessor, encoder=encoder, decoder=decoder, log_prediction=False)
    if name == "conformer":
        with tempfile.TemporaryDirectory() as tokens:
            prefix = f"{tokens}/tokenizer"
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(TEXTS), model_prefix=prefix, vocab_size=40, model_type="bpe", unk_id=0,
                bos_id=-1, eos_id=-1, pad_id=-1, minloglevel=2, hard_vocab_limit=False,
                normalization_rule_name="identity",
            )  # fmt: skip
            pieces = [line.split("\t")[0] for line in open(f"{prefix}.vocab", encoding="utf-8")]
            Path(tokens, "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
            config["tokenizer"] = dict(dir=tokens, type="bpe")
            model = EncDecCTCModelBPE(cfg=OmegaConf.create(config))
            save(model, name, folder, torch)
    else:
        letters = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
        config["labels"] = letters
        config["decoder"] |= dict(num_classes=len(letters), vocabulary=letters)
        save(EncDecCTCModel(cfg=OmegaConf.create(config)), name, folder, torch)


def save(model, name: str, folder: Path, torch) -> None:
    randomize(model, torch)
    model.eval()
    model.save_to(str(folder / f"{name}.nemo"))
    audio, lengths = waveforms()
    with torch.no_grad():
        log_probs, out_lengths, _ = model(
            input_signal=torch.from_numpy(audio), input_signal_length=torch.from_numpy(lengths)
        )
    write(folder / f"{name}.npz", audio, lengths, log_probs, out_lengths)


def write(path: Path, audio, lengths, log_probs, out_lengths) -> None:
    np.savez_compressed(path, audio=audio, lengths=lengths,
                        log_probs=log_probs.numpy(), out_lengths=np.asarray(out_lengths))  # fmt: skip
    print(path.name, f"{path.stat().st_size / 1024:.0f} KiB", tuple(log_probs.shape))


def make_parakeet(folder: Path) -> None:
    import sentencepiece
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import ParakeetCTCConfig, ParakeetFeatureExtractor, ParakeetForCTC, ParakeetTokenizer

    torch.manual_seed(0)
    out = folder / "parakeet"
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as tokens:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS), model_prefix=f"{tokens}/t", vocab_size=40, model_type="unigram", unk_id=0,
            bos_id=-1, eos_id=-1, pad_id=-1, minloglevel=2, hard_vocab_limit=False,
                normalization_rule_name="identity",
        )  # fmt: skip
        rows = [line.rstrip("\n").split("\t") for line in open(f"{tokens}/t.vocab", encoding="utf-8")]
    vocab = [(piece, float(score)) for piece, score in rows] + [("<pad>", -1e4)]
    backend = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    ParakeetTokenizer(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>").save_pretrained(out)
    encoder = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_kernel_size=5,
                   subsampling_conv_channels=8, num_mel_bins=24, layerdrop=0.0)  # fmt: skip
    config = ParakeetCTCConfig(vocab_size=len(vocab), pad_token_id=len(vocab) - 1, encoder_config=encoder)
    model = ParakeetForCTC(config)
    randomize(model, torch)
    model.eval().save_pretrained(out)
    extractor = ParakeetFeatureExtractor(feature_size=24)
    extractor.save_pretrained(out)
    audio, lengths = waveforms()
    inputs = extractor([a[:n] for a, n in zip(audio, lengths, strict=True)], sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    out_lengths = model._get_subsampling_output_length(inputs["attention_mask"].sum(-1))
    write(folder / "parakeet.npz", audio, lengths, torch.log_softmax(logits, -1), out_lengths)


def main() -> None:
    logging.disable(logging.CRITICAL)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in NEMO:
        make_nemo(name, folder)
    make_parakeet(folder)


if __name__ == "__main__":
    main()
