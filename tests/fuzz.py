"""Damaged weight files: whatever byte is wrong, the reader says so clearly or reads on, and never fails otherwise.

    python -m tests.fuzz 2000

damages each file that often and prints how it went.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from seq2seq_models import FlaxPegasusForConditionalGeneration, TFPegasusForConditionalGeneration
from seq2seq_models.core.checkpoints import open_checkpoint, read_index
from seq2seq_models.errors import CheckpointError

from .loading import SHARD
from .tiny import pair

KINDS = {
    "safetensors": "model.safetensors",
    "bin": "pytorch_model.bin",
    "bin of 2020": "pytorch_model.bin",
    "h5": "tf_model.h5",
    "msgpack": "flax_model.msgpack",
    "index": "model.safetensors.index.json",
}


def files(folder: Path) -> dict[str, Path]:
    """An undamaged file of each kind; the index beside its shards."""
    model = pair("Pegasus")[1]
    for kind in KINDS:
        place = folder / kind
        if kind == "bin of 2020":
            place.mkdir()
            torch.save(model.state_dict(), place / KINDS[kind], _use_new_zipfile_serialization=False)
        elif kind in ("h5", "msgpack"):
            cls = TFPegasusForConditionalGeneration if kind == "h5" else FlaxPegasusForConditionalGeneration
            cls.from_pretrained(folder / "safetensors").save_pretrained(place, safe_serialization=False)
        else:
            size = SHARD if kind == "index" else "5GB"
            model.save_pretrained(place, safe_serialization=kind != "bin", max_shard_size=size)
    return {kind: folder / kind / name for kind, name in KINDS.items()}


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """The file with some bytes changed, cut out, doubled or put in; mostly near the ends, where structure is."""
    data = bytearray(whole)
    for _ in range(draw.choice([1, 1, 2, 5])):
        near = draw.choice([min(len(data), 2000), len(data)])
        place = draw.randrange(near) if draw.random() < 0.7 else len(data) - 1 - draw.randrange(near)
        what = draw.random()
        if what < 0.6:
            data[place] = draw.choice([0, 255, 127, 128, draw.randrange(256)])
        elif what < 0.75:
            del data[place : place + draw.choice([1, 4, 100])]
        elif what < 0.9:
            data[place:place] = data[place : place + draw.choice([1, 8, 100])]
        else:
            del data[place:]
        if not data:
            break
    return bytes(data)


def try_one(file: Path, data: bytes) -> str:
    """ "refused" or "read", after reading all of it; any other exception comes through."""
    whole = file.read_bytes()
    file.write_bytes(data)
    try:
        if file.name.endswith(".index.json"):
            index = read_index(file)
            found = open_checkpoint(sorted(file.parent.glob("*.safetensors")), index)
        else:
            found = open_checkpoint([file])
        for stored in found.values():
            stored.read()
            stored.release()
    except CheckpointError as error:
        assert len(str(error)) > 20 and file.parent.name in str(error), error
        return "refused"
    finally:
        file.write_bytes(whole)
    return "read"


def fuzz(kind: str, file: Path, times: int, seed: int = 0) -> Counter[str]:
    """How often a damaged file was refused and how often it was read."""
    draw, whole = random.Random(f"{kind} {seed}"), file.read_bytes()
    return Counter(try_one(file, damaged(whole, draw)) for _ in range(times))


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as folder:
        for kind, file in files(Path(folder)).items():
            found = fuzz(kind, file, times)
            print(f"{kind:12} {times} damaged: {found['refused']} refused, {found['read']} read", flush=True)


if __name__ == "__main__":
    main()
