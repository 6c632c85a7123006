"""The command `seq2seq-models`, run as a user runs it."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import seq2seq_models
from seq2seq_models import cli, command_help, environment
from seq2seq_models.bundled import demo_checkpoint

FIRE = "A fire broke out in a bakery in Lisbon on Monday. Three people were hurt. The cause is not known."
MATCH = "Porto beat Madrid 2-1 on Friday. Silva scored the first goal. The stadium was full."
FIRE_HEADLINE = "Fire at bakery in Lisbon, three hurt"
MATCH_HEADLINE = "Porto beat Madrid 2-1, Silva scores"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(*arguments: str, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """The command with these words and this standard input."""
    done = subprocess.run(
        [sys.executable, "-m", "seq2seq_models", *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        env=ENVIRONMENT,
        timeout=120,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def inside(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The same inside this process, which saves the start: exit code, output, errors."""
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def report(tmp_path: Path) -> Path:
    file = tmp_path / "report.txt"
    file.write_text(FIRE + "\n", encoding="utf-8")
    return file


# summarize


def test_a_file_gives_its_summary(report: Path) -> None:
    done = run("summarize", str(report))
    assert (done.returncode, done.stdout, done.stderr) == (0, FIRE_HEADLINE + "\n", "")


@pytest.mark.parametrize("arguments", [["summarize"], ["summarize", "-"]])
def test_standard_input_gives_its_summary(arguments: list[str]) -> None:
    done = run(*arguments, stdin=FIRE)
    assert (done.returncode, done.stdout, done.stderr) == (0, FIRE_HEADLINE + "\n", "")


def test_several_files_are_told_apart(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "match.txt"
    other.write_text(MATCH, encoding="utf-8")
    code, out, err = inside(capsys, "summarize", str(report), str(other))
    assert (code, err) == (0, "")
    assert out == f"{report}: {FIRE_HEADLINE}\n{other}: {MATCH_HEADLINE}\n"


def test_every_line_is_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lines.txt"
    file.write_text(f"{MATCH}\n\n{FIRE}\n", encoding="utf-8")
    assert inside(capsys, "summarize", "--lines", str(file)) == (0, f"{MATCH_HEADLINE}\n\n{FIRE_HEADLINE}\n", "")
    code, out, _ = inside(capsys, "summarize", "--lines", "--json", str(file))
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        {"file": str(file), "line": 1, "summary_text": MATCH_HEADLINE},
        {"file": str(file), "line": 2, "summary_text": ""},
        {"file": str(file), "line": 3, "summary_text": FIRE_HEADLINE},
    ]


def test_json_lines_in_and_out() -> None:
    records = [{"id": 7, "text": MATCH}, {"id": 8, "text": FIRE, "näme": "ü"}]
    done = run("summarize", "--jsonl", "--json", stdin="\n".join(json.dumps(one) for one in records) + "\n\n")
    assert done.returncode == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {**records[0], "summary_text": MATCH_HEADLINE},
        {**records[1], "summary_text": FIRE_HEADLINE},
    ]
    assert '"näme": "ü"' in done.stdout
    other = run("summarize", "--jsonl", "--field", "body", stdin=json.dumps({"body": FIRE}))
    assert (other.returncode, other.stdout) == (0, FIRE_HEADLINE + "\n")


def test_generation_options_reach_the_model(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inside(capsys, "summarize", "--num-beams", "2", "--max-new-tokens", "4", str(report))
    assert code == 0
    assert FIRE_HEADLINE.startswith(out.strip())
    assert 0 < len(out.strip()) < len(FIRE_HEADLINE)
    sample = ("summarize", "--do-sample", "--num-beams", "1", "--temperature", "4", "--top-k", "0", "--seed")
    first, again, other = (inside(capsys, *sample, seed, str(report))[1] for seed in ("1", "1", "2"))
    assert first == again
    assert first != other


def test_progress_goes_to_stderr(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = inside(capsys, "summarize", "--progress", str(report), str(report))
    assert (code, out.count(FIRE_HEADLINE)) == (0, 2)
    assert "2/2" in err
    assert inside(capsys, "summarize", str(report), str(report))[2] == ""


def test_a_byte_order_mark_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bom.txt"
    file.write_text(FIRE, encoding="utf-8-sig")
    assert inside(capsys, "summarize", str(file))[1] == FIRE_HEADLINE + "\n"


def test_a_long_file_is_read_in_parts_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "long.txt"
    file.write_text(" ".join([FIRE, *["It was a quiet week in Rome."] * 80]), encoding="utf-8")
    code, _, err = inside(capsys, "summarize", "--num-beams", "1", str(file))
    assert code == 0
    assert err.startswith("warning: a text has ")
    assert re.search(r"this model reads 512: it is read in \d parts, whose summaries are joined\n$", err)
    assert inside(capsys, "summarize", "--quiet", "--num-beams", "1", str(file))[2] == ""


def test_a_closed_pipe_is_no_news(report: Path) -> None:
    command = f"{sys.executable} -m seq2seq_models summarize {report} {report}; echo code $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"({command}) | true"], capture_output=True, text=True, env=ENVIRONMENT, timeout=120
    )
    assert done.stderr == "code 141\n"


def test_ctrl_c_ends_quietly() -> None:
    # A shell starts its background jobs with the signal ignored, and they hand that on.
    program = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('seq2seq_models', run_name='__main__')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "chat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"hi, i am anna.\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"you: hi, i am anna.\n"
        assert process.stdout.readline().startswith(b"bot: ")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")


# chat


def test_a_talk_from_standard_input() -> None:
    done = run("chat", stdin="hi, i am anna.\n\nyes, i have a dog called rex.\nwhat is my name?\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "you: hi, i am anna.",
        "bot: nice to meet you, anna. do you have a pet?",
        "you: yes, i have a dog called rex.",
        "bot: rex is a lovely name. what do you like to do?",
        "you: what is my name?",
        "bot: your name is anna.",
    ]


@pytest.mark.parametrize("beams", ["1", "10"])
def test_replies_stream_to_the_same_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], beams: str
) -> None:
    lines = ["hi, i am anna.", "i like swimming.", "bye!"]
    outputs = []
    for options in (["--num-beams", beams], ["--num-beams", beams, "--json"]):
        feed(monkeypatch, "\n".join(lines))
        code, out, err = inside(capsys, "chat", *options)
        assert (code, err) == (0, "")
        outputs.append(out)
    streamed = [line.removeprefix("bot: ") for line in outputs[0].splitlines() if line.startswith("bot: ")]
    exchanges = [json.loads(line) for line in outputs[1].splitlines()]
    assert streamed == [exchange["reply"] for exchange in exchanges]
    assert [exchange["user"] for exchange in exchanges] == lines
    assert {exchange["turns_left_out"] for exchange in exchanges} == {0}


def test_a_reply_is_shown_word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: shown.append("".join(words)))

    class Tokenizer:
        """Joins the pieces of a contraction only once all of them are there, as cleaning up does."""

        def decode(self, ids: list[int], **_: Any) -> str:
            return (
                " ".join(["i", "don", "'", "t", "know", "you", "."][: len(ids)]).replace(" ' ", "'").replace(" .", ".")
            )

    class Token:
        def __init__(self, token: int) -> None:
            self.token = token

        def reshape(self, _: int) -> list[int]:
            return [self.token]

    printer = cli._Printer(Tokenizer())
    for token in range(7):
        printer.put(Token(token))
    before = list(shown)
    printer.end()
    assert "".join(shown) == "i don't know you."
    assert "".join(before) == "i don't "
    assert len([piece for piece in before if piece]) > 1


def test_the_oldest_turns_are_dropped_and_the_user_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, "what do you think about chess? tell me about music. do you like tennis?\n" * 24)
    code, out, err = inside(capsys, "chat", "--json", "--num-beams", "1")
    left_out = [json.loads(line)["turns_left_out"] for line in out.splitlines()]
    assert code == 0
    assert len(left_out) == 24
    assert left_out[0] == 0
    assert left_out[-1] > 0
    assert left_out == sorted(left_out)
    assert err.splitlines()[0] == (
        "warning: the talk outgrew the 512 tokens this model reads: "
        f"its first {next(filter(None, left_out))} turns are left out"
    )


def feed(monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    """Makes this the standard input of this process."""
    source = io.BytesIO(text.encode() if isinstance(text, str) else text)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(source, encoding="ascii"))


# info


def test_info_shows_what_a_checkpoint_holds() -> None:
    done = run("info", "pegasus-demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pegasus, " in done.stdout.splitlines()[0]
    for part in ("model.safetensors", "README.md", "d_model", "num_beams", "float32", "x 2"):
        assert part in done.stdout


def test_info_counts_what_loading_finds(capsys: pytest.CaptureFixture[str]) -> None:
    folder = demo_checkpoint("blenderbot-small-demo")
    code, out, err = inside(capsys, "info", "--json", str(folder))
    assert (code, err) == (0, "")
    told = json.loads(out)
    model = seq2seq_models.BlenderbotSmallForConditionalGeneration.from_pretrained(folder)
    assert told["parameters"] == sum(one.numel() for one in model.parameters())
    assert told["model_type"] == "blenderbot-small"
    assert told["config"]["d_model"] == model.config.d_model
    assert told["generation"]["num_beams"] == 10
    assert told["files"]["model.safetensors"] == (folder / "model.safetensors").stat().st_size
    held = {one["name"]: one for one in told["tensors"]}
    assert held["model.shared.weight"]["shape"] == list(model.model.shared.weight.shape)
    layers = held["model.encoder.layers.*.fc1.weight"]
    assert (layers["count"], layers["dtype"], layers["shape"]) == (
        2,
        "float32",
        list(model.model.encoder.layers[0].fc1.weight.shape),
    )


def test_info_reads_no_framework_and_no_weight() -> None:
    code = (
        "import sys; from seq2seq_models.cli import main; code = main(['info', 'pegasus-demo']);"
        "print(code, [name for name in ('torch', 'tensorflow', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


# The environment.


def test_env_tells_versions_and_loads_no_framework() -> None:
    code = (
        "import sys; from seq2seq_models.cli import main; code = main(['env', '--json']);"
        "print(code, [name for name in ('torch', 'tensorflow', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    *lines, last = done.stdout.splitlines()
    assert last == "0 []"
    found = json.loads("\n".join(lines))
    assert found["seq2seq_models"] == seq2seq_models.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("torch", "tokenizers", "numpy"):
        assert found["packages"][name] == version(name)


def test_env_hides_what_is_private(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "https://anna:secret@hub.example:8080/api")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    code, out, _ = inside(capsys, "env")
    assert code == 0
    assert "secret" not in out and "anna" not in out
    assert "  - HF_TOKEN: (set)\n" in out + "\n" and "HUGGING_FACE" not in out
    assert "  - HF_ENDPOINT: https://(hidden)@hub.example:8080/api" in out
    assert f"  - torch: {version('torch')}\n" in out


def test_env_asks_the_frameworks_for_devices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> list[str]:
        raise OSError("libcuda.so: no such file")

    monkeypatch.setattr(environment, "DEVICES", {"torch": environment._torch_devices, "jax": broken})
    code, out, _ = inside(capsys, "env", "--devices", "--json")
    found = json.loads(out)["devices"]
    assert code == 0 and found["torch"].split(", ")[0] == "cpu"
    assert found["jax"] == "OSError: libcuda.so: no such file"


# What goes wrong, and how it is told.


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (
            ["summarize", "b.txt", "a.txt"],
            "",
            'error: no such file: a.txt, b.txt. Check the spelling; "-" reads standard input.\n',
        ),
        (["summarize", "."], "", "error: a document must be a file, got the folder .. Name the files in it."),
        (["summarize", "--model", "./nothing-here"], FIRE, "error: "),
        (["summarize", "--model", "owner/nothing-here"], FIRE, "error: "),
        (
            ["summarize", "--framework", "caffe"],
            FIRE,
            "error: `framework` must be 'pytorch', 'tensorflow' or 'flax', got",
        ),
        (["summarize", "--device", "toaster"], FIRE, "error: `device` must be one of this machine, got 'toaster'"),
        (["summarize", "--dtype", "float12"], FIRE, "error: `dtype` must be "),
        (["summarize", "--num-beams", "0"], FIRE, "error: "),
        (["summarize", "--batch-size", "0"], FIRE, "error: `batch_size` must be a whole number of at least 1, got 0"),
        (["summarize", "--jsonl"], "{", "error: -, line 1 is not JSON: "),
        (["summarize", "--jsonl"], "[1]", "error: -, line 1 must be a JSON object with a text under 'text'."),
        (["summarize"], b"\xff\xfe\xfd", "error: - is not UTF-8 text: invalid start byte at byte 0."),
        (["info", "./nothing-here"], "", "error: "),
        (["chat", "--num-beams", "-1"], "hi", "error: "),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    stdin: str | bytes,
    message: str,
    no_network: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    feed(monkeypatch, stdin)
    code, _, err = inside(capsys, *arguments)
    assert code == 2
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_a_failing_process_shows_no_traceback() -> None:
    for arguments, stdin in ((["summarize", "nope.txt"], b""), (["summarize", "--lines"], b"good\n\xff\n")):
        done = run(*arguments, stdin=stdin)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


def test_an_unexpected_error_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the cat sat on it")

    monkeypatch.setattr(cli, "pipeline", broken)
    code, out, err = inside(capsys, "chat")
    assert (code, out) == (2, "")
    assert err == "error: RuntimeError: the cat sat on it (run with --debug for the whole story)\n"
    with pytest.raises(RuntimeError, match="the cat sat on it"):
        cli.main(["chat", "--debug"])


def test_version_and_help() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"seq2seq-models {seq2seq_models.__version__}\n")
    assert {"summarize", "chat", "info"} <= set(run("--help").stdout.split())
    assert run().returncode == 2
    assert run("summarize", "--num-beams", "many").stderr.count("invalid int value") == 1


def example_lines() -> list[str]:
    return [line.strip() for lines in command_help.EXAMPLES.values() for line in lines.splitlines() if line.strip()]


@pytest.mark.parametrize("line", example_lines())
def test_the_examples_under_help_are_commands(line: str) -> None:
    command = next(part for part in line.split("|") if "seq2seq-models" in part).partition(">")[0].partition("<")[0]
    name, *words = shlex.split(command)
    assert name == "seq2seq-models"
    options = cli._parser().parse_args(words)
    assert callable(options.run)


@pytest.mark.parametrize("name", sorted(command_help.EXAMPLES))
def test_every_command_has_examples_and_log_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"examples:\n  seq2seq-models {name}" in told
    assert "--quiet" in told and "--debug" in told


def test_exit_codes_are_those_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text(encoding="utf-8")
    for code in (0, cli.FAULT, cli.INTERRUPTED, cli.BROKEN_PIPE):
        assert re.search(rf"^  {code} ", command_help.EXIT_CODES, re.MULTILINE)
        assert f"| {code} |" in page


def completed(script: Path, *words: str) -> set[str]:
    """What bash offers for the last of these words."""
    ask = f"""
        source {script}
        COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1} COMP_LINE="{" ".join(words)}"
        $(complete -p seq2seq-models | grep -o "[^ ]*_shtab[^ ]*" | head -1)
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_completion_in_bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inside(capsys, "completion", "bash")
    assert code == 0
    script = tmp_path / "completion.sh"
    script.write_text(out, encoding="utf-8")
    assert completed(script, "seq2seq-models", "co") == {"convert", "completion"}
    assert completed(script, "seq2seq-models", "chat", "--quant") == {"--quantization"}
    assert completed(script, "seq2seq-models", "chat", "--early-stopping", "n") == {"never"}


def test_completion_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, out, err = inside(capsys, "completion", "bash")
    assert (code, out) == (2, "") and "pip install 'seq2seq-models[completion]'" in err


def test_quantization_reaches_the_model(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inside(capsys, "summarize", str(report), "--quantization", "int8")[0] == 0
    code, _, err = inside(capsys, "summarize", str(report), "--quantization", "int3")
    assert code == 2 and "`quantization` must be 'int8'" in err
