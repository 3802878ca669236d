"""Time of one training step of Conformer-CTC small on a CPU, compared with NeMo 3.0 in PyTorch.

    python experiments/benchmarks/conformer_step.py --torch-python /path/to/python/with/nemo

Both sides: batch 8 of 10 s (1000 frames of 80 mel bands), 40 labels of 1024, dropout 0.1, forward, CTC, backward,
AdamW, the same number of threads. The two take turns within one run, and each round prints its ratio, so that
whatever else the machine is doing hits both. Without --torch-python only our side is timed. Prints one JSON line at
the end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ROWS, FRAMES, BANDS, LABELS, CLASSES = 8, 1000, 80, 40, 1025


def inputs():
    import numpy as np

    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS, FRAMES, BANDS)).astype(np.float32)
    return features, rng.integers(1, CLASSES, (ROWS, LABELS))


def jax_step():
    """A function that takes one step and waits for it."""
    import jax
    import jax.numpy as jnp
    import optax

    from speech_jax.models.conformer import conformer_ctc, small
    from speech_jax.objectives.ctc import ctc_loss

    features, labels = inputs()
    batch = {"features": jnp.asarray(features), "mask": jnp.ones((ROWS, FRAMES), bool)}
    labels, label_lengths = jnp.asarray(labels, jnp.int32), jnp.full(ROWS, LABELS)
    model, optimizer = conformer_ctc(small(), CLASSES), optax.adamw(1e-3)

    def loss(params, model_state, key):
        out, model_state = model.apply(params, model_state, batch, key=key, train=True)
        nll, feasible = ctc_loss(out["logits"], out["mask"], labels, label_lengths)
        return nll.sum() / feasible.sum(), model_state

    def step(state, key):
        params, model_state, opt_state = state
        (value, model_state), gradient = jax.value_and_grad(loss, has_aux=True)(params, model_state, key)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), model_state, opt_state), value

    params, model_state = jax.jit(model.init)(jax.random.key(0), batch)
    state = (params, model_state, optimizer.init(params))
    compiled = jax.jit(step, donate_argnums=0).lower(state, jax.random.key(0)).compile()
    count = 0

    def run() -> None:
        nonlocal state, count
        count += 1
        state, value = compiled(state, jax.random.fold_in(jax.random.key(1), count))
        jax.block_until_ready((state, value))

    return run


def torch_step(threads: int):
    import logging

    logging.disable(logging.CRITICAL)
    import torch
    from nemo.collections.asr.modules.conformer_encoder import ConformerEncoder
    from nemo.collections.asr.modules.conv_asr import ConvASRDecoder

    torch.set_num_threads(threads)
    features, labels = inputs()
    features = torch.tensor(features).transpose(1, 2).contiguous()
    lengths, labels = torch.full((ROWS,), FRAMES), torch.tensor(labels - 1)
    label_lengths = torch.full((ROWS,), LABELS)
    encoder = ConformerEncoder(
        feat_in=BANDS, n_layers=16, d_model=176, n_heads=4, conv_kernel_size=31, subsampling="striding",
        subsampling_factor=4, subsampling_conv_channels=176, dropout=0.1, dropout_pre_encoder=0.1, dropout_emb=0.0,
        dropout_att=0.1,
    ).train()  # fmt: skip
    words = [str(i) for i in range(CLASSES - 1)]
    decoder = ConvASRDecoder(feat_in=176, num_classes=CLASSES - 1, vocabulary=words).train()
    criterion = torch.nn.CTCLoss(blank=CLASSES - 1, reduction="mean", zero_infinity=True)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=1e-3)

    def run() -> None:
        encoded, out_lengths = encoder(audio_signal=features, length=lengths)
        log_probs = decoder(encoder_output=encoded)
        loss = criterion(log_probs.transpose(0, 1), labels, out_lengths, label_lengths)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def timed(run) -> tuple[float, float]:
    """Wall seconds and CPU seconds of one step."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", help="a Python that has torch and nemo_toolkit[asr]")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=2, help="rounds that are not counted")
    parser.add_argument("--side", choices=["both", "torch"], default="both", help=argparse.SUPPRESS)
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0))

    if args.side == "torch":
        run = torch_step(threads)
        print("ready", flush=True)
        for _ in sys.stdin:  # one step a line
            print(*timed(run), flush=True)
        return

    from speech_jax.core.memory import keep_freed_memory

    keep_freed_memory()  # as the front doors do
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    peer = None
    if args.torch_python:
        command = [args.torch_python, os.path.abspath(__file__), "--side", "torch"]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while "ready" not in (line := peer.stdout.readline()):
            if not line:
                sys.exit("the torch side ended before its first step")
    started = time.perf_counter()
    run = jax_step()
    print(f"compiled in {time.perf_counter() - started:.1f} s; {threads} threads", flush=True)

    ours, theirs = [], []
    for i in range(args.warm_up + args.rounds):
        mine = timed(run)
        line = f"round {i}: speech_jax {mine[0]:.2f} s ({mine[1]:.2f} CPU s)"
        if peer:
            peer.stdin.write("go\n")
            peer.stdin.flush()
            other = tuple(float(x) for x in peer.stdout.readline().split())
            line += f"   NeMo {other[0]:.2f} s ({other[1]:.2f} CPU s)   ratio {mine[0] / other[0]:.2f}"
        print(line + ("   (warm-up)" if i < args.warm_up else ""), flush=True)
        if i >= args.warm_up:
            ours.append(mine)
            if peer:
                theirs.append(other)

    result = {"seconds": statistics.median(wall for wall, _ in ours), "rounds": args.rounds, "threads": threads}
    result["audio_seconds_per_second"] = ROWS * FRAMES / 100 / result["seconds"]
    if peer:
        ratios = sorted(a[0] / b[0] for a, b in zip(ours, theirs, strict=True))
        result |= {
            "nemo_seconds": statistics.median(wall for wall, _ in theirs),
            "ratio": statistics.median(ratios),
            "ratio_smallest": ratios[0],
            "ratio_largest": ratios[-1],
            "cpu_seconds_ratio": statistics.median(c for _, c in ours) / statistics.median(c for _, c in theirs),
        }
        peer.stdin.close()
        peer.wait()
    print(json.dumps({k: round(v, 3) for k, v in result.items()}))


if __name__ == "__main__":
    main()
