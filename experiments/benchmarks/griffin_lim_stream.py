"""Cost of streaming Griffin-Lim: quality and processor time compared with the whole utterance at once.

    JAX_PLATFORMS=cpu python experiments/benchmarks/griffin_lim_stream.py --manifest data/real/asterisk/test.jsonl

Copy synthesis of the manifest's first recordings: mel spectrogram → waveform, in one piece and in chunks of 22 frames
as the decoder gives them. Quality is the spectral convergence in dB (lower is better) against the magnitudes that
Griffin-Lim is given. Processor time, not the clock's: other work may run beside it. Compiling is done before.
"""

import argparse
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from speech_jax.audio import presets
from speech_jax.audio.features import extract_features, num_frames
from speech_jax.audio.griffin_lim import mel_to_magnitude, mel_to_wave, spectral_convergence
from speech_jax.audio.griffin_lim_stream import BLOCK, frames_ahead, stream_wave
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recordings import read_recording

CHUNK = 22  # frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--rate", type=int, default=16_000)
    args = parser.parse_args()
    config = dataclasses.replace(presets.nvidia_tacotron2(), sample_rate=args.rate, fmax=min(8_000, args.rate / 2))
    ahead = frames_ahead(config)
    delay = (BLOCK + ahead + 1) * config.hop / config.sample_rate
    print(f"blocks of {BLOCK} frames, {ahead} frames ahead: {1000 * delay:.0f} ms of frames before the first sound")
    mels = []
    for utterance in read_manifest(args.manifest)[: args.clips]:
        audio = read_recording(utterance, args.rate)
        mel, _ = jax.jit(extract_features, static_argnames="config")(audio[None], np.array([len(audio)]), config=config)
        mels.append(np.asarray(mel[0, : num_frames(len(audio), config)]))
    seconds = sum(len(mel) for mel in mels) * config.hop / config.sample_rate
    print(f"{len(mels)} clips, {seconds:.1f} s")
    print("| iterations | whole, dB | streamed, dB | whole, processor s per s | streamed | ratio |")
    print("|---:|---:|---:|---:|---:|---:|")
    ways = {
        "whole": lambda mel, n: mel_to_wave(mel, config, iterations=n),
        "streamed": lambda mel, n: np.concatenate(
            list(stream_wave(np.split(mel, range(CHUNK, len(mel), CHUNK)), config, iterations=n))
        ),
    }
    for iterations in (16, 32, 60):
        found, taken = {}, {}
        for name, way in ways.items():
            waves = [way(mel, iterations) for mel in mels]  # and compiles
            losses = []
            for mel, wave in zip(mels, waves, strict=True):
                magnitude = mel_to_magnitude(jnp.asarray(mel[None]), config)
                losses.append(spectral_convergence(jnp.asarray(wave[None]), magnitude, np.array([len(mel)]), config))
            found[name] = float(np.mean(losses))
            began = time.process_time()
            for mel in mels:
                way(mel, iterations)
            taken[name] = (time.process_time() - began) / seconds
        print(f"| {iterations} | {found['whole']:.1f} | {found['streamed']:.1f} | {taken['whole']:.3f} | "
              f"{taken['streamed']:.3f} | {taken['streamed'] / taken['whole']:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
