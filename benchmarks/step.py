"""What one step of greedy decoding costs, beside the time that reading its weights takes on this machine.

    python benchmarks/step.py                                   # BlenderbotSmall-90M's shape
    python benchmarks/step.py --family pegasus --operations 12

The floor is the bytes of the decoder's and the head's matrices over the bandwidth of this machine, which is measured by
adding up half a gigabyte. A step is what one token more costs: the difference between 40 and 8 tokens, over 32. Below
the table stand the operations of a step that take longest, as PyTorch's profiler sees them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from generate import CLASSES, SHAPES, random_ids, write_checkpoint
from torch import nn
from torch.profiler import ProfilerActivity, profile

import seq2seq_models
from seq2seq_models.pytorch.quantization import Int8Linear

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {}, "bfloat16": {"dtype": torch.bfloat16}, "int8": {"quantization": "int8"},
}  # fmt: skip
FEW, MANY = 8, 40
ONCE = ("encoder_attn.k_proj", "encoder_attn.v_proj")
"""Layers of the decoder that work once for each input, not in each step."""


def bandwidth() -> float:
    """Bytes per second that this machine reads, the best of ten."""
    values = torch.ones(2**27)
    best = 0.0
    for _ in range(10):
        start = time.perf_counter()
        values.sum()
        best = max(best, values.nbytes / (time.perf_counter() - start))
    return best


def bytes_of_a_step(model: Any) -> int:
    """What the linear layers of the decoder and the head hold."""
    layers = [
        layer
        for name, layer in model.get_decoder().named_modules()
        if isinstance(layer, nn.Linear | Int8Linear) and not name.endswith(ONCE)
    ]
    return sum(layer.weight.nbytes for layer in (*layers, model.lm_head))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(SHAPES), default="blenderbot-small")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--operations", type=int, default=8, help="rows of each profile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ids = torch.from_numpy(random_ids(args.family, 1, 64))
    profiles = []
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(args.family, Path(folder))
        speed = bandwidth()
        print(f"{args.family}, {args.threads} threads, {speed / 1e9:.1f} GB/s\n")
        print("| | MB read | floor, ms | a step, ms | over the floor |\n| --- | ---: | ---: | ---: | ---: |")
        for precision, options in PRECISIONS.items():
            name = f"{CLASSES[args.family]}ForConditionalGeneration"
            model = getattr(seq2seq_models, name).from_pretrained(folder, **options)

            def run(new: int, model: Any = model) -> float:
                start = time.perf_counter()
                model.generate(ids, num_beams=1, max_length=None, min_length=0, max_new_tokens=new, min_new_tokens=new)
                return time.perf_counter() - start

            run(FEW)
            step = (min(run(MANY) for _ in range(5)) - min(run(FEW) for _ in range(5))) / (MANY - FEW)
            held = bytes_of_a_step(model)
            floor = held / speed
            cells = f"{held / 1e6:.0f} | {1000 * floor:.1f} | {1000 * step:.1f} | {step / floor:.2f}"
            print(f"| {precision} | {cells} |", flush=True)
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                run(MANY)
            profiles.append((precision, seen.key_averages()))
    for precision, seen_all in profiles:
        print(f"\n{precision}, ms of {MANY} steps and an encoder pass:")
        rows = sorted(seen_all, key=lambda one: -one.self_cpu_time_total)[: args.operations]
        for one in rows:
            print(f"  {one.self_cpu_time_total / 1000:8.1f}  {one.count:6}  {one.key}")


if __name__ == "__main__":
    main()
