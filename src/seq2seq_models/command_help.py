"""What the command line says of itself: examples under each `--help`, exit codes, and completion for shells."""

from __future__ import annotations

import argparse
from typing import Any

from .checkpoint_commands import add_log_options
from .errors import MissingFrameworkError

SHELLS = ("bash", "zsh", "tcsh")

EXAMPLES = {
    "summarize": """
  seq2seq-models summarize report.txt
  seq2seq-models summarize --model google/pegasus-xsum --num-beams 4 *.txt
  cat news.txt | seq2seq-models summarize --lines --json > summaries.jsonl
  seq2seq-models summarize --jsonl --field body articles.jsonl --json --batch-size 16""",
    "chat": """
  seq2seq-models chat
  seq2seq-models chat --model facebook/blenderbot_small-90M --quantization int8
  seq2seq-models chat --json < questions.txt""",
    "serve": """
  seq2seq-models serve
  seq2seq-models serve --model google/pegasus-xsum --chat-model facebook/blenderbot_small-90M --quantization int8""",
    "info": """
  seq2seq-models info google/pegasus-large
  seq2seq-models info ./my-model --json""",
    "convert": """
  seq2seq-models convert google/pegasus-xsum ./pegasus-xsum --to safetensors
  seq2seq-models convert ./my-model ./my-model-tf --to h5 --dtype float16 --max-shard-size 1GB""",
    "export": """
  seq2seq-models export google/pegasus-xsum ./pegasus-onnx --to onnx
  seq2seq-models export ./my-model ./served --to savedmodel --batch-size 8 --source-length 512
  seq2seq-models export ./my-model ./greedy --to jax --options '{"num_beams": 1, "max_length": 64}'""",
    "env": """
  seq2seq-models env --devices
  seq2seq-models env --json""",
    "completion": """
  seq2seq-models completion bash > ~/.local/share/bash-completion/completions/seq2seq-models
  seq2seq-models completion zsh > ~/.zfunc/_seq2seq-models""",
}
"""For every command, lines to copy."""

EXIT_CODES = """exit codes:
  0    done
  2    a fault of the request, the files or the machine, told in one line on stderr
  130  Ctrl-C
  141  the reader of the output went away
  129, 143  convert or export was ended by SIGHUP or SIGTERM, and left nothing half written"""


def add_examples(commands: Any) -> None:
    """Puts the examples under the help of each command of the parser."""
    for name, command in commands.choices.items():
        command.epilog = f"examples:{EXAMPLES[name]}"
        command.formatter_class = argparse.RawDescriptionHelpFormatter


def add_completion_command(commands: Any, parser: argparse.ArgumentParser) -> None:
    """Adds `completion` to the commands of the parser, whose commands and options it completes."""
    command = commands.add_parser(
        "completion",
        help="print a script that completes commands and options in a shell",
        description="Prints a script for a shell, which then completes commands and options with the Tab key.",
    )
    command.add_argument("shell", choices=SHELLS, help=", ".join(SHELLS))
    add_log_options(command)
    command.set_defaults(run=lambda options: print(completion(parser, options.shell)))


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell.

    Raises:
        MissingFrameworkError: shtab is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError:
        raise MissingFrameworkError(
            "completion needs shtab. Install it: pip install 'seq2seq-models[completion]'"
        ) from None
    return str(shtab.complete(parser, shell))
