#!/usr/bin/env python3
"""Summarizes a folder of documents into Parquet with Ray Data: several workers, each with the model loaded once.

    python examples/summarize_folder.py reports/ summaries/ --workers 2
    python examples/summarize_folder.py reports/ summaries/ --address auto --workers 64 --gpus 1

Reads *.txt (a document each) and *.jsonl (one per line, under --field), in all folders below. Writes parts of
--part-size documents, each whole or not at all: started again, a run that was stopped does what is missing. See
docs/batch-inference.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
SCHEMA = pa.schema({
    "document": pa.string(), "summary": pa.string(), "tokens": pa.int32(), "seconds": pa.float64(),
    "error": pa.string(),
})  # fmt: skip


def documents(folder: Path) -> Iterator[Row]:
    """Where each document is: its name, its file, and the bytes of it there; in the order of names."""
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".jsonl")):
        name, place = path.relative_to(folder).as_posix(), {"path": str(path.resolve())}
        if path.suffix == ".txt":
            yield {"document": name, **place, "start": 0, "size": path.stat().st_size}
            continue
        start = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield {"document": f"{name}:{number}", **place, "start": start, "size": len(line)}
                start += len(line)


def read(place: Row, field: str) -> str:
    """The text of a document; OSError or ValueError where there is none."""
    with Path(place["path"]).open("rb") as file:
        file.seek(place["start"])
        text = file.read(place["size"]).decode("utf-8-sig")
    if place["path"].endswith(".jsonl"):
        record = json.loads(text)
        text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError("there is no text")
    return text


class Summarizer:
    """What a worker holds: the model. Called with a part, it writes the part's file."""

    def __init__(self, out: str, settings: Row, batch_size: int) -> None:
        from seq2seq_models import pipeline

        model = {name: settings[name] for name in ("model", "framework", "dtype")}
        self.pipeline = pipeline("summarization", **model, **settings["options"])
        self.out, self.settings, self.batch_size = Path(out), settings, batch_size

    def __call__(self, part: Row) -> Row:
        """How many documents were done, and how many tokens were written for them."""
        rows = [{"document": place["document"], "tokens": 0, "seconds": 0.0} for place in part["documents"]]
        for row, place in zip(rows, part["documents"], strict=True):
            try:
                row["text"] = read(place, self.settings["field"])
            except (OSError, ValueError) as error:
                row["error"] = f"{type(error).__name__}: {error}"
        # Batches of about one length hold little padding.
        order = sorted((row for row in rows if "text" in row), key=lambda row: -len(row["text"]))
        for start in range(0, len(order), self.batch_size):
            self.summarize(order[start : start + self.batch_size])
        metadata = {"settings": json.dumps(self.settings, sort_keys=True)}
        table = pa.Table.from_pylist(rows, SCHEMA.with_metadata(metadata))
        # A dot in front keeps readers of the folder away from what is not whole yet.
        temporary = self.out / f".{part['part']}.{uuid.uuid4().hex}"
        pq.write_table(table, temporary)
        temporary.replace(self.out / part["part"])
        return {"documents": len(rows), "tokens": sum(row["tokens"] for row in rows)}

    def summarize(self, rows: list[Row]) -> None:
        """Adds the summaries of one batch to its rows."""
        start = time.perf_counter()
        texts = [row["text"] for row in rows]
        found = self.pipeline(texts, batch_size=len(texts), return_text=True, return_tensors=True)
        seconds = (time.perf_counter() - start) / len(rows)
        for row, result in zip(rows, found, strict=True):
            ids = result["summary_token_ids"]
            # A long document has a list with the ids of each part; the first id of all is the decoder's start.
            written = sum(len(one) - 1 for one in (ids if isinstance(ids, list) else [ids]))
            row.update(summary=result["summary_text"], tokens=written, seconds=seconds)


def finished(out: Path, settings: Row) -> list[str]:
    """The documents in the parts that are there; what a killed worker began is cleared away."""
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(".part-*"):
        leftover.unlink()
    names: list[str] = []
    for path in sorted(out.glob("part-*.parquet")):
        made_with = json.loads((pq.read_schema(path).metadata or {}).get(b"settings", b"null"))
        if made_with != settings:
            raise SystemExit(f"{path} must be made with {settings}, got {made_with}. Name another folder for results.")
        names += pq.read_table(path, columns=["document"])["document"].to_pylist()
    return names


def parts(places: list[Row], size: int) -> list[Row]:
    """The documents in parts; a part's name follows from what is in it."""
    found = []
    for start in range(0, len(places), size):
        chosen = places[start : start + size]
        names = "\n".join(place["document"] for place in chosen)
        found.append({"part": f"part-{hashlib.sha256(names.encode()).hexdigest()[:16]}.parquet", "documents": chosen})
    return found


def run(missing: list[Row], options: argparse.Namespace, settings: Row) -> None:
    """Summarizes what is missing. Ray starts a worker that died anew and gives its part to one that lives."""
    import ray
    import ray.data
    from tqdm import tqdm

    own: Row = {"num_cpus": options.workers * options.cpus, "include_dashboard": False}
    ray.init(options.address, logging_level=logging.WARNING, **(own if options.address == "local" else {}))
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    todo = parts(missing, options.part_size)
    work = ray.data.from_items(todo, override_num_blocks=len(todo)).map(
        Summarizer,
        fn_constructor_args=(str(options.out.resolve()), settings, options.batch_size),
        compute=ray.data.ActorPoolStrategy(size=min(options.workers, len(todo))),
        num_cpus=options.cpus,
        num_gpus=options.gpus or None,
    )
    tokens = 0
    with tqdm(total=len(missing), unit="document") as bar:
        for done in work.iter_rows():
            tokens += done["tokens"]
            bar.update(done["documents"])
            bar.set_postfix({"tokens/s": round(tokens / bar.format_dict["elapsed"])}, refresh=False)
    ray.shutdown()


def arguments() -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of *.txt and *.jsonl documents")
    parser.add_argument("out", type=Path, help="folder of the Parquet parts")
    parser.add_argument("--field", default="text", help="key of the document in a line of a .jsonl file (text)")
    parser.add_argument("--model", default="pegasus-demo", help="a folder, a name on the hub, or pegasus-demo")
    parser.add_argument("--framework", choices=("pytorch", "tensorflow", "flax"), default="pytorch")
    parser.add_argument("--dtype", help="float32, bfloat16, float16 or auto (float32)")
    parser.add_argument("--options", type=json.loads, default={}, help="of generate, as in '{\"num_beams\": 4}'")
    parser.add_argument("--workers", type=int, default=1, help="how many hold a model (1)")
    parser.add_argument("--cpus", type=int, default=1, help="cores of a worker (1)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a worker, also 0.5 (0)")
    parser.add_argument("--batch-size", type=int, default=8, help="documents that a worker summarizes at once (8)")
    parser.add_argument("--part-size", type=int, default=256, help="documents that are done or lost together (256)")
    parser.add_argument("--address", default="local", help="of a Ray cluster, auto for this host's (a local one)")
    return parser


def main(given: list[str] | None = None) -> None:
    """Summarizes what has no summary yet, and makes sure that nothing is missing then."""
    parser = arguments()
    options = parser.parse_args(given)
    if "num_return_sequences" in options.options:
        parser.error("--options must not have num_return_sequences: a row has one summary")
    if Path(options.model).is_dir():
        options.model = str(Path(options.model).resolve())
    settings = {name: getattr(options, name) for name in ("model", "framework", "dtype", "field", "options")}
    places = list(documents(options.folder))
    done = set(finished(options.out, settings))
    missing = [place for place in places if place["document"] not in done]
    print(f"{len(places)} documents, {len(places) - len(missing)} done before", flush=True)
    if missing:
        run(missing, options, settings)
    names = finished(options.out, settings)
    if len(names) != len(set(names)) or not {place["document"] for place in places} <= set(names):
        raise SystemExit(f"{options.out} must have every document once, but does not. Start the command again.")
    errors = pq.read_table(options.out, columns=["error"])["error"] if names else pa.array([])
    print(f"{options.out}: {len(names)} rows, {len(errors) - errors.null_count} of them with an error")


if __name__ == "__main__":
    main()
