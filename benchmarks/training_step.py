"""Speed and memory of a training step, beside transformers on the same weights, in turn on the same machine.

    python benchmarks/training_step.py                              # PyTorch, BlenderbotSmall-90M's shape, 8 x 64 x 64
    python benchmarks/training_step.py --framework tensorflow       # or flax
    python benchmarks/training_step.py --family pegasus --batch 2 --rounds 1

A step is the loss, its gradient, and AdamW, in float32 without dropout, compiled as that framework's users do: not at
all in PyTorch, `tf.function`, `jax.jit` with donated state. Ours is the step of examples/finetune_*.py: it calls
`model.cross_entropy`, in TensorFlow uses an AdamW of its own, and in PyTorch lets the process keep the memory that it
frees (examples/finetuning/memory.py); theirs takes the model's loss (in Flax, which has none, optax's), the framework's
AdamW, and memory as the system gives it. A row is the median over the rounds, a step's seconds the median after the
first two. Needs transformers 4.57.6 beside this library.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from generate import CLASSES, OURS, PREFIX, SHAPES, peak_mb

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

THEIRS = "transformers"
RATE = 1e-5
QUIET = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
Batch = dict[str, np.ndarray]
Step = Callable[[Batch], float]


def pytorch_step(model: Any, library: str, return_memory: bool = False) -> Step:
    """A step in PyTorch."""
    import torch

    if library == OURS and not return_memory:
        from finetuning.memory import keep_freed_memory

        keep_freed_memory()
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0, fused=True)

    def step(batch: Batch) -> float:
        inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
        loss = model.cross_entropy(**inputs) if library == OURS else model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    return step


def tensorflow_step(model: Any, library: str) -> Step:
    """A step in TensorFlow."""
    import tensorflow as tf

    if library == OURS:
        from finetune_tensorflow import EPSILON, AdamW

        optimizer = AdamW(RATE, epsilon=EPSILON)
    else:
        import tf_keras

        optimizer = tf_keras.optimizers.AdamW(RATE, weight_decay=0.0)

    @tf.function
    def step(batch: Any) -> Any:
        with tf.GradientTape() as tape:
            if library == OURS:
                loss = model.cross_entropy(**batch, training=True)
            else:
                loss = tf.reduce_mean(model(**batch, training=True).loss)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return lambda batch: float(step({name: tf.constant(value, tf.int32) for name, value in batch.items()}))


def flax_step(model: Any, library: str) -> Step:
    """A step in JAX."""
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adamw(RATE, weight_decay=0.0)

    def loss_of(params: Any, batch: Any) -> Any:
        if library == OURS:
            return model.cross_entropy(**batch, params=params, train=True)
        labels = batch.pop("labels")
        start = jnp.full_like(labels[:, :1], model.config.decoder_start_token_id)
        inputs = {**batch, "decoder_input_ids": jnp.concatenate([start, labels[:, :-1]], 1)}
        logits = model(**inputs, params=params, train=True, dropout_rng=jax.random.key(0)).logits
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(params: Any, state: Any, batch: Any) -> Any:
        loss, gradient = jax.value_and_grad(loss_of)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    compiled = jax.jit(step, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, model.params)
    model._params = None
    now = [params, optimizer.init(params)]

    def run(batch: Batch) -> float:
        *now[:], loss = compiled(*now, {name: jnp.asarray(value, jnp.int32) for name, value in batch.items()})
        return float(loss)

    return run


STEPS = {"pytorch": pytorch_step, "tensorflow": tensorflow_step, "flax": flax_step}


def measure(library: str, folder: str, args: argparse.Namespace) -> None:
    """Print the rows of one library, in this process."""
    if args.framework == "pytorch":
        import torch

        torch.set_num_threads(args.threads)
    name = f"{PREFIX[args.framework]}{CLASSES[args.family]}ForConditionalGeneration"
    # transformers' own readers of safetensors for TensorFlow and Flax fail with current versions.
    options = {} if library == OURS or args.framework == "pytorch" else {"from_pt": True}
    if library != OURS and args.framework == "flax":
        config = importlib.import_module(library).AutoConfig.from_pretrained(folder, **QUIET)
        options |= {"config": config}
    else:
        options |= QUIET
    model = getattr(importlib.import_module(library), name).from_pretrained(folder, **options)
    options = {"return_memory": args.return_memory} if args.framework == "pytorch" else {}
    step: Step = STEPS[args.framework](model, library, **options)
    draw = np.random.default_rng(0)
    words = SHAPES[args.family]["vocab_size"]
    batch = {
        "input_ids": draw.integers(200, words, (args.batch, args.source)),
        "attention_mask": np.ones((args.batch, args.source), np.int64),
        "labels": draw.integers(200, words, (args.batch, args.target)),
    }
    losses, seconds = [], []
    for _ in range(args.steps):
        start = time.perf_counter()
        losses.append(step(batch))
        seconds.append(time.perf_counter() - start)
    rows = {
        "first step, s": seconds[0],
        "a later step, s": statistics.median(seconds[2:]),
        "examples/s": args.batch / statistics.median(seconds[2:]),
        "peak memory, MB": peak_mb(),
        "loss of the first step": losses[0],
        "loss of the last step": losses[-1],
    }
    print(json.dumps(rows), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(SHAPES), default="blenderbot-small")
    parser.add_argument("--framework", choices=list(PREFIX), default="pytorch")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--source", type=int, default=64, help="tokens of a source")
    parser.add_argument("--target", type=int, default=64, help="tokens of a target")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    parser.add_argument("--return-memory", action="store_true", help="ours keeps no freed memory in PyTorch either")
    parser.add_argument("--run", nargs=2, metavar=("LIBRARY", "FOLDER"), help="measure one side in this process")
    args = parser.parse_args()
    if args.run:
        measure(*args.run, args)
        return
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: what made the weights must not count as ours, nor as theirs.
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; "
        code += f"from generate import write_checkpoint; write_checkpoint({args.family!r}, Path({folder!r}))"
        subprocess.run([sys.executable, "-c", code], check=True)
        rounds = [{library: _side(library, folder) for library in (OURS, THEIRS)} for _ in range(args.rounds)]
    shape = f"{args.batch} x {args.source} x {args.target}"
    print(f"{args.family}, {args.framework}, {shape}, medians of {args.rounds} rounds in turn\n")
    print(f"| {'':24} | {OURS:>16} | {THEIRS:>16} | {'ratio':>6} |")
    print(f"|{'-' * 26}|{'-' * 17}:|{'-' * 17}:|{'-' * 7}:|")
    for what in rounds[0][OURS]:
        ours, theirs = ([sides[library][what] for sides in rounds] for library in (OURS, THEIRS))
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(f"| {what:24} | {statistics.median(ours):16.5g} | {statistics.median(theirs):16.5g} | {ratio:6.2f} |")


def _side(library: str, folder: str) -> dict[str, float]:
    command = [sys.executable, *sys.argv, "--run", library, folder]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    if done.returncode:
        sys.exit(f"{library} failed:\n{done.stderr[-2000:]}")
    rows: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return rows


if __name__ == "__main__":
    main()
