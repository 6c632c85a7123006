"""The command `seq2seq-models`: summarize texts, chat, and its other half, `checkpoint_commands`.

A framework loads once there is work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOWrapper
from typing import Any

from . import __version__
from .checkpoint_commands import add_checkpoint_commands, add_model_options, model_options
from .command_help import EXIT_CODES, add_completion_command, add_examples
from .core.conversation import Conversation
from .core.settings.generation_options import OPTIONS
from .documents import Document, read_documents
from .environment import add_environment_command
from .errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    GenerationError,
    InputError,
    MissingFrameworkError,
    TokenizerError,
)
from .export import add_export_command
from .pipelines import SummarizationPipeline, pipeline
from .serve import add_serve_command

FAULT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
"""Exit codes: a fault that is told in one line; Ctrl-C; the reader of the output went away (as a shell reports it)."""

_FAULTS = (
    ConfigError, GenerationError, InputError, TokenizerError, CheckpointError, CheckpointNotFoundError,
    MissingFrameworkError, OSError, UnicodeError,
)  # fmt: skip
"""What is wrong with the request, the files or the machine, and is told without a traceback."""

_FLAGS = ("do_sample",)
_WHOLE = (
    "num_beams", "max_length", "min_length", "max_new_tokens", "min_new_tokens", "no_repeat_ngram_size", "top_k",
)  # fmt: skip
_REAL = ("length_penalty", "repetition_penalty", "temperature", "top_p")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and gives its exit code.

    Args:
        arguments: the words after the command's name; None takes those of this process.
    """
    options = _parser().parse_args(arguments)
    _log_to_stderr(logging.ERROR if options.quiet else logging.WARNING)
    try:
        options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, which would complain about the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except _FAULTS as error:
        return _fail(str(error))
    except Exception as error:
        if options.debug:
            raise
        return _fail(f"{type(error).__name__}: {error} (run with --debug for the whole story)")
    return 0


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return FAULT


class _LogLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


def _log_to_stderr(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogLine())
    logger = logging.getLogger("seq2seq_models")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


# The parser.


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seq2seq-models",
        description="Summaries and chat with Pegasus and BlenderbotSmall checkpoints.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_summarize(commands)
    _add_chat(commands)
    add_checkpoint_commands(commands)
    add_export_command(commands)
    add_environment_command(commands)
    add_serve_command(commands)
    add_completion_command(commands, parser)
    add_examples(commands)
    return parser


def _add_summarize(commands: Any) -> None:
    command = commands.add_parser(
        "summarize",
        help="print a summary of each text",
        description="Prints a summary of each file, of each line (--lines) or of each JSON record (--jsonl).",
    )
    command.add_argument("files", nargs="*", metavar="FILE", help='files to summarize; "-" or none is standard input')
    form = command.add_mutually_exclusive_group()
    form.add_argument("--lines", action="store_true", help="every line is a text of its own")
    form.add_argument("--jsonl", action="store_true", help="every line is a JSON object with a text")
    command.add_argument("--field", default="text", help="the key of the text in a JSON object (default: text)")
    command.add_argument("--json", action="store_true", help="print JSON objects, one per line")
    command.add_argument(
        "--progress", action=argparse.BooleanOptionalAction, help="show progress on stderr (default: on a terminal)"
    )
    command.add_argument("--batch-size", type=int, metavar="N", help="texts that are summarized at once")
    add_model_options(command, "summarization")
    _add_generation_options(command)
    command.set_defaults(run=summarize)


def _add_chat(commands: Any) -> None:
    command = commands.add_parser(
        "chat",
        help="talk with a model",
        description="Answers every line of the terminal or of standard input, with the talk so far in mind.",
    )
    command.add_argument("--json", action="store_true", help="print every exchange as a JSON object on one line")
    add_model_options(command, "chat")
    _add_generation_options(command)
    command.set_defaults(run=chat)


def _add_generation_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("generation", "what is not given stays what the checkpoint says")
    for names, kind in ((_WHOLE, int), (_REAL, float)):
        for name in names:
            group.add_argument(_option(name), type=kind, metavar="N" if kind is int else "X", help=OPTIONS[name].does)
    for name in _FLAGS:
        group.add_argument(_option(name), action=argparse.BooleanOptionalAction, help=OPTIONS[name].does)
    group.add_argument("--early-stopping", choices=("true", "false", "never"), help=OPTIONS["early_stopping"].does)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _generation_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `generate` that were given."""
    given = {name: getattr(options, name) for name in (*_WHOLE, *_REAL, *_FLAGS)}
    given["early_stopping"] = {"true": True, "false": False}.get(options.early_stopping, options.early_stopping)
    return {name: value for name, value in given.items() if value is not None}


def _load(task: str, options: argparse.Namespace) -> Any:
    """The pipeline of the command, its options of `generate` built in."""
    from .core.seed import set_seed

    loaded = pipeline(
        task,
        model=options.model,
        revision=options.revision,
        batch_size=getattr(options, "batch_size", None),
        **model_options(options),
        **_generation_options(options),
    )
    if options.seed is not None:
        set_seed(options.seed)
    return loaded


# summarize


def summarize(options: argparse.Namespace) -> None:
    """Prints a summary for every text, in the order of the texts."""
    documents, count = read_documents(options.files, lines=options.lines, jsonl=options.jsonl, field=options.field)
    summarizer = _load("summarization", options)
    # Files are sorted by length in larger groups; lines, which may arrive one by one, are not kept waiting.
    group = summarizer.batch_size * (8 if count is not None else 1)
    with _progress(count, options.progress) as bar:
        for batch in _groups(documents, group):
            for document, summary in zip(batch, _summaries(summarizer, batch), strict=True):
                line = json.dumps({**document.record, "summary_text": summary}, ensure_ascii=False)
                bar.write(line if options.json else _plain(document, summary, count), file=sys.stdout)
                bar.update()
            sys.stdout.flush()


def _summaries(summarizer: SummarizationPipeline, documents: Sequence[Document]) -> list[str]:
    """A summary for each document; an empty one has an empty summary."""
    texts = [document.text for document in documents if document.text.strip()]
    found = iter(summarizer(texts)) if texts else iter(())
    return [next(found)["summary_text"] if document.text.strip() else "" for document in documents]


def _plain(document: Document, summary: str, count: int | None) -> str:
    """The summary as one line; several files are told apart by their names. "<n>" is how Pegasus writes a new line."""
    line = " ".join(summary.replace("<n>", " ").split())
    return f"{document.record['file']}: {line}" if count is not None and count > 1 and document.is_file else line


def _groups(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    group: list[Document] = []
    for document in documents:
        group.append(document)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _progress(count: int | None, wanted: bool | None) -> Any:
    """A progress bar on stderr; by itself only for several texts, and only on a terminal."""
    from tqdm import tqdm

    off = (count == 1 or None) if wanted is None else not wanted
    return tqdm(total=count, unit="text", file=sys.stderr, disable=off)


# chat


class _Printer:
    """Prints a reply as it grows, from the tokens that `generate` hands over.

    The last two words wait: joining the pieces of "don ' t" still changes them.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = ""

    def put(self, value: Any) -> None:
        """Takes the next token ids."""
        self._ids += [int(token) for token in value.reshape(-1)]
        text = self._text()
        words = text.split(" ")
        self._show(" ".join(words[:-2]) + " " if len(words) > 2 else "")

    def end(self) -> None:
        """Shows what was held back, and ends the line."""
        self._show(self._text())
        print(flush=True)

    def _text(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=True))

    def _show(self, text: str) -> None:
        if text.startswith(self._shown):
            print(text[len(self._shown) :], end="", flush=True)
            self._shown = text


def chat(options: argparse.Namespace) -> None:
    """Answers one line after the other until there are no more."""
    bot = _load("chat", options)
    streams = not options.json and bot.generation_config.num_beam_groups == 1
    talk = Conversation()
    for line in _lines_of_the_user(options.json):
        talk.add_user(line)
        if streams:
            print("bot: ", end="", flush=True)
            bot(talk, streamer=_Printer(bot.tokenizer))
        else:
            bot(talk)
            exchange = {"user": line, "reply": talk.reply, "turns_left_out": talk.left_out}
            print(json.dumps(exchange, ensure_ascii=False) if options.json else f"bot: {talk.reply}", flush=True)


def _lines_of_the_user(silent: bool) -> Iterator[str]:
    """What the user types, or the lines of a file or pipe, which are shown so that the output reads as a talk."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives input() its line editing)
        print("Say something; Ctrl-D ends the talk.", file=sys.stderr)
        with contextlib.suppress(EOFError):
            while True:
                if line := input("you: ").strip():
                    yield line
        print()
        return
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig")
    for line in map(str.strip, sys.stdin):
        if line:
            if not silent:
                print(f"you: {line}", flush=True)
            yield line
