"""Time of one training step of Tacotron 2, compared with NVIDIA's public PyTorch code, and speed of decoding.

    git clone https://github.com/NVIDIA/tacotron2 CLONE
    python -m experiments.benchmarks.tacotron2_step --torch-python PYTHON --clone CLONE

Both sides: the public sizes (28 million parameters), batch 16, 128 symbols, 400 frames, teacher forcing, squared error
before and after the post-net, stop cross-entropy, backward, Adam with clipping, as many threads. The two take
turns within one run and each round prints its ratio, so that whatever else the machine is doing hits both. Decoding is
free running, batch 1, 200 frames. Without --torch-python only our side is timed. Prints one JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import types

ROWS, SYMBOLS, FRAMES, STEPS = 16, 128, 400, 200


def inputs():
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(1, 148, (ROWS, SYMBOLS)), rng.normal(size=(ROWS, FRAMES, 80)).astype(np.float32)


def jax_sides():
    """Functions that train one step and decode STEPS frames, and wait for it."""
    import jax
    import jax.numpy as jnp
    import optax

    from speech_jax.models.config import Tacotron2Config
    from speech_jax.models.tacotron2 import encode, tacotron2, utterance_seeds
    from speech_jax.models.tacotron2_decoder import decoder_step, start_decoder
    from speech_jax.models.tacotron2_parts import make_parts
    from speech_jax.objectives.tts import frame_loss, stop_loss

    text, mel = inputs()
    mask = jnp.ones((ROWS, FRAMES), bool)
    batch = {"text": jnp.asarray(text, jnp.int32), "text_mask": jnp.ones((ROWS, SYMBOLS), bool),
             "mel": jnp.asarray(mel), "mel_mask": mask, "index": jnp.arange(ROWS)}  # fmt: skip
    config = Tacotron2Config(held="dropout")
    model, optimizer = tacotron2(config, 148), optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3, eps=1e-6))

    def loss(params, model_state, key):
        out, model_state = model.apply(params, model_state, batch, key=key, train=True)
        terms = [frame_loss(out[n], batch["mel"], mask) for n in ("mel", "mel_post")] + [
            stop_loss(out["stop"], mask, 1.0)
        ]
        return sum(total / count for total, count in terms), model_state

    def step(state, key):
        params, model_state, opt_state = state
        (value, model_state), gradient = jax.value_and_grad(loss, has_aux=True)(params, model_state, key)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), model_state, opt_state), value

    params, model_state = jax.jit(lambda key: model.init(key, None))(jax.random.key(0))
    state = (params, model_state, optimizer.init(params))
    compiled = jax.jit(step, donate_argnums=0).lower(state, jax.random.key(0)).compile()
    plan = compiled.memory_analysis()
    print(f"temporary memory {plan.temp_size_in_bytes / 1e6:.0f} MB", flush=True)
    parts = make_parts(config)

    @jax.jit
    def speak(params, stats):
        one = {"text": batch["text"][:1], "text_mask": batch["text_mask"][:1]}
        memory, _ = encode(parts, params, stats, one)
        seeds = utterance_seeds(jax.random.key(0), jnp.arange(1))
        fixed, moving = start_decoder(parts, params, memory, one["text_mask"], seeds)

        def body(moving, _):
            frames, stop, _, moving = decoder_step(parts, fixed, moving, 1)
            return moving, (frames, stop)

        return jax.lax.scan(body, moving, None, STEPS)[1]

    spoken = speak.lower(params, model_state["batch_stats"]).compile()
    decoded = (jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, model_state["batch_stats"]))
    count = 0

    def train() -> None:
        nonlocal state, count
        count += 1
        state, value = compiled(state, jax.random.fold_in(jax.random.key(1), count))
        jax.block_until_ready((state, value))

    return train, lambda: jax.block_until_ready(spoken(*decoded))


def torch_sides(clone: str, threads: int):
    import torch

    sys.path.insert(0, clone)
    torch.cuda.LongTensor = torch.LongTensor  # its masks are made on a GPU
    torch.set_num_threads(threads)
    import model as public

    sizes = types.SimpleNamespace(
        n_symbols=148, symbols_embedding_dim=512, encoder_kernel_size=5, encoder_n_convolutions=3,
        encoder_embedding_dim=512, n_mel_channels=80, n_frames_per_step=1, decoder_rnn_dim=1024, prenet_dim=256,
        max_decoder_steps=STEPS, gate_threshold=2.0, p_attention_dropout=0.1, p_decoder_dropout=0.1,
        attention_rnn_dim=1024, attention_dim=128, attention_location_n_filters=32,
        attention_location_kernel_size=31, postnet_embedding_dim=512, postnet_kernel_size=5,
        postnet_n_convolutions=5, mask_padding=True, fp16_run=False,
    )  # fmt: skip
    network = public.Tacotron2(sizes).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-6)
    text, mel = inputs()
    text, mel = torch.tensor(text), torch.tensor(mel).transpose(1, 2).contiguous()
    stop = torch.zeros(ROWS, FRAMES)
    stop[:, -1] = 1
    x = (text, torch.full((ROWS,), SYMBOLS), mel, SYMBOLS, torch.full((ROWS,), FRAMES))

    def train() -> None:
        before, after, logits, _ = network(x)
        loss = torch.nn.functional.mse_loss(before, mel) + torch.nn.functional.mse_loss(after, mel)
        loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(logits, stop)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    def speak() -> None:
        network.eval()
        with torch.no_grad():
            network.inference(text[:1])
        network.train()

    return train, speak


def seconds(run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", help="a Python that has torch and librosa")
    parser.add_argument("--clone", help="a clone of NVIDIA/tacotron2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=["both", "torch"], default="both", help=argparse.SUPPRESS)
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    if args.side == "torch":
        sides = torch_sides(args.clone, threads)
        print("ready", flush=True)
        for line in sys.stdin:  # one run a line
            print("took", seconds(sides[int(line)]), flush=True)
        return

    from speech_jax.core.memory import keep_freed_memory

    keep_freed_memory()  # as the front doors do
    peer = None
    if args.torch_python:
        command = [args.torch_python, os.path.abspath(__file__), "--side", "torch", "--clone", args.clone]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def answer(word: str) -> str:
            while word not in (line := peer.stdout.readline()):
                if not line:
                    sys.exit("the torch side ended too early")
            return line

        answer("ready")
    sides = jax_sides()
    result = {"threads": threads}
    for number, name in enumerate(("train", "speak")):
        ours, theirs = [], []
        for i in range(1 + args.rounds):
            mine = seconds(sides[number])
            line = f"{name}, round {i}: speech_jax {mine:.2f} s"
            if peer:
                peer.stdin.write(f"{number}\n")
                peer.stdin.flush()
                other = float(answer("took").split()[1])
                line += f"   NVIDIA's code {other:.2f} s   ratio {mine / other:.2f}"
            print(line + ("" if i else "   (warm-up)"), flush=True)
            if i:
                ours.append(mine)
                theirs += [other] if peer else []
        frames = ROWS * FRAMES if name == "train" else STEPS
        result |= {
            f"{name}_seconds": statistics.median(ours),
            f"{name}_frames_per_second": frames / statistics.median(ours),
        }
        if peer:
            ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
            result |= {f"{name}_ratio": statistics.median(ratios), f"{name}_ratio_least": ratios[0],
                       f"{name}_ratio_greatest": ratios[-1]}  # fmt: skip
    print(json.dumps({k: round(v, 3) for k, v in result.items()}))
    if peer:
        peer.stdin.close()
        peer.wait()


if __name__ == "__main__":
    main()
