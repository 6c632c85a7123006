"""The commands about checkpoints themselves: `info` shows what one holds, `convert` writes it in another format."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from types import FrameType
from typing import Any

from .bundled import DEMO_CHECKPOINTS, resolve_model


def add_checkpoint_commands(commands: Any) -> None:
    """Adds `info` and `convert` to the commands of the parser."""
    _add_info(commands)
    _add_convert(commands)


def add_log_options(command: Any) -> None:
    """Adds the options that every command has."""
    command.add_argument("--quiet", "-q", action="store_true", help="no warnings")
    command.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")


def add_model_options(command: argparse.ArgumentParser, task: str) -> None:
    """Adds the options that say which model runs, and how, to a command that runs one."""
    group = command.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="REPO",
        help=f"a repository of the hub or a folder (default: the bundled {DEMO_CHECKPOINTS[task]})",
    )
    group.add_argument("--revision", help="branch, tag or commit of the repository")
    group.add_argument("--token", help="access token for a private or gated repository")
    group.add_argument("--framework", help="pytorch (default), tensorflow or flax")
    group.add_argument("--device", help="cpu, cuda, cuda:0 ... (default: the first GPU, else the CPU)")
    group.add_argument("--dtype", help="float32, bfloat16, float16 or auto (default: float32)")
    group.add_argument("--quantization", metavar="KIND", help="int8: rounded weights, faster on a CPU (PyTorch)")
    group.add_argument("--seed", type=int, help="makes --do-sample repeatable")
    add_log_options(group)


def model_options(options: argparse.Namespace) -> dict[str, Any]:
    """What the options that `add_model_options` adds are as keywords of `pipeline`, but for the model itself."""
    given = {name: getattr(options, name) for name in ("token", "framework", "device", "dtype")}
    further = {} if options.quantization is None else {"quantization": options.quantization}
    return {**given, "model_kwargs": further}


def _add_repository_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--revision", help="branch, tag or commit of the repository")
    command.add_argument("--token", help="access token for a private or gated repository")


# info


def _add_info(commands: Any) -> None:
    command = commands.add_parser(
        "info",
        help="show what a checkpoint holds",
        description="Shows files, config, and number, types and shapes of the weights, without loading them.",
    )
    command.add_argument(
        "model", metavar="REPO", help="a repository of the hub, a folder, or the name of a demo checkpoint"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    _add_repository_options(command)
    add_log_options(command)
    command.set_defaults(run=info)


def info(options: argparse.Namespace) -> None:
    """Prints what a checkpoint holds."""
    from .core.storage.checkpoint_report import describe_checkpoint

    report = describe_checkpoint(resolve_model(options.model), revision=options.revision, token=options.token)
    print(json.dumps(report.as_dict(), ensure_ascii=False, indent=2) if options.json else report.as_text())


# convert


def _add_convert(commands: Any) -> None:
    command = commands.add_parser(
        "convert",
        help="write a checkpoint in another format",
        description="Writes a checkpoint in another format, tensor by tensor, and compares what was written.",
    )
    command.add_argument(
        "source", metavar="SOURCE", help="a repository of the hub, a folder, or the name of a demo checkpoint"
    )
    command.add_argument("target", metavar="TARGET", help="the folder to write")
    command.add_argument("--to", required=True, metavar="FORMAT", help="safetensors, bin, h5 or msgpack")
    command.add_argument("--dtype", help="float32, float16 or bfloat16 (default: as stored)")
    command.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="largest size of one file (default: 5GB)"
    )
    command.add_argument("--force", action="store_true", help="replace the weights that TARGET holds already")
    command.add_argument("--json", action="store_true", help="print what was written as one JSON object")
    _add_repository_options(command)
    add_log_options(command)
    command.set_defaults(run=convert)


def convert(options: argparse.Namespace) -> None:
    """Writes a checkpoint in another format, all of it or nothing."""
    from tqdm import tqdm

    from .core.storage.conversion import convert_checkpoint

    size = options.max_shard_size
    with (
        Stopped() as stopped,
        tqdm(unit="B", unit_scale=True, file=sys.stderr, disable=True if options.quiet else None) as bar,
    ):

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        done = convert_checkpoint(
            resolve_model(options.source),
            options.target,
            options.to,
            dtype=options.dtype,
            max_shard_size=int(size) if size.isdecimal() else size,
            overwrite=options.force,
            revision=options.revision,
            token=options.token,
            progress=progress,
            committing=stopped.let_finish,
        )
    if options.json:
        written = {
            "target": options.target,
            "files": [str(file) for file in done.files],
            "tensors": done.tensors,
            "bytes": done.nbytes,
        }
        print(json.dumps(written, ensure_ascii=False))
        return
    files = f"{len(done.files)} files, {done.tensors} tensors of {done.nbytes / 1e6:,.1f} MB"
    print(f"{options.target}: {files}, written and compared")


class Stopped:
    """Inside, Ctrl-C and the signals that end a process are exceptions, so that what was begun is cleaned up.

    Only the first one counts: a second must not interrupt the cleaning. After `let_finish`, none does.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._is_over = False

    def __enter__(self) -> Stopped:
        names = ("SIGINT", "SIGTERM", "SIGHUP")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        if threading.current_thread() is threading.main_thread():
            # One that is ignored stays so: the shell does that for jobs in the background, nohup for the hang-up.
            for number in [one for one in numbers if signal.getsignal(one) is not signal.SIG_IGN]:
                self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def let_finish(self) -> None:
        """Only renames are left, which take no time and must not be done by half."""
        self._is_over = True

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
