"""Writes the parts of these pages that follow from the code: generation options, score rules, and all differences.

    python docs/make_tables.py            # rewrites the pages
    python docs/make_tables.py --check    # exits with 1 if a page is not up to date

A part stands between `<!-- made by make_tables.py: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "seq2seq_models"
TESTS = DOCS.parent / "tests"
WINGS = ("pytorch", "tensorflow", "flax")
COMPILED_TESTS = {"combinations", "compiled", "make_goldens", "test_sampling_rules"}
GENERATION_TESTS = {
    "pytorch": {"combinations", "test_sampling_rules", "test_generation", "test_strategies", "make_goldens"},
    "tensorflow": {*COMPILED_TESTS, "test_tensorflow_generation"},
    "flax": {*COMPILED_TESTS, "test_flax_generation"},
}
"""The files that test the options of generation in each framework, and those that they take their cases from."""
MARK = "Differs from transformers 4.57.6:"
OLDER = "Differs from transformers 4.51.3:"  # the reference of diverse beams and contrastive search
PART = re.compile(r"(<!-- made by make_tables\.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def honoured_options() -> str:
    """The options that `generate` honours, by group."""
    from seq2seq_models.core.decoding import IMPLEMENTED
    from seq2seq_models.core.settings.generation_options import OPTIONS

    return table(
        ["option", "default", "must be", "what it does"],
        [
            [f"`{name}`", f"`{option.default!r}`", option.rule.must, option.does]
            for name, option in OPTIONS.items()
            if name in IMPLEMENTED
        ],
    )


def refused_options() -> str:
    """The options that are known, kept in files, and refused by `generate` when they are set."""
    from seq2seq_models.core.decoding import IMPLEMENTED
    from seq2seq_models.core.settings.generation_options import OPTIONS

    return table(
        ["option", "what it would do"],
        [[f"`{name}`", option.does] for name, option in OPTIONS.items() if name not in IMPLEMENTED],
    )


EVERYTHING = {
    "sequence_bias": [[[5], 1.0]], "encoder_repetition_penalty": 2.0, "repetition_penalty": 2.0, "min_p": 0.5,
    "no_repeat_ngram_size": 3, "encoder_no_repeat_ngram_size": 3, "bad_words_ids": [[5]], "min_length": 5, "top_k": 5,
    "min_new_tokens": 5, "forced_bos_token_id": 5, "forced_eos_token_id": 1, "remove_invalid_values": True,
    "exponential_decay_length_penalty": (5, 1.5), "suppress_tokens": [5], "begin_suppress_tokens": [5], "top_p": 0.5,
    "do_sample": True, "temperature": 0.5, "typical_p": 0.5, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1,
    "renormalize_logits": True, "eos_token_id": 1, "max_length": 30, "diversity_penalty": 1.0,
}  # fmt: skip
"""Options that switch every rule on, so that their order can be asked for."""


def score_rules() -> str:
    """The rules on scores, in the order they apply."""
    from seq2seq_models.core import generation_rules as room
    from seq2seq_models.core.generation_config import GenerationConfig

    config = GenerationConfig(**EVERYTHING)
    early, late = room.score_rules(config, 1, prefix_allowed_tokens_fn=lambda row, ids: [], source=[[5]])
    found = [type(rule) for rule in (*early, *late)]
    every = {kind for kind in vars(room).values() if isinstance(kind, type) and issubclass(kind, room.Rule)}
    if forgotten := sorted(kind.__name__ for kind in every - {room.Rule, *found}):
        raise SystemExit(f"EVERYTHING in {__file__} must switch every rule on, it leaves out {', '.join(forgotten)}.")
    rows = [
        [rule.__name__, f"`{rule.option}`", rule.looks_at, sentence(rule), *(cell(rule, wing) for wing in WINGS)]
        for rule in found
    ]
    own = ["*your own*", "`logits_processor`", "scores, ids", "Whatever your functions do, in turn."]
    rows.insert(len(early), [*own, *(tested("logits_processor", wing) for wing in WINGS)])
    return table(["rule", "switched on by", "looks at", "what it does", *WINGS], rows)


def cell(rule: type, wing: str) -> str:
    """The files that test a rule in a framework; "no" if the framework has no function for the rule."""
    return tested(rule.option, wing) if rule.__name__ in computed("core/generation/rules.py") else "no"


def computed(room: str) -> set[str]:
    """The rules that a room has a function for."""
    module = ast.parse((SOURCE / room).read_text(encoding="utf-8"))
    table_of = next(n for n in module.body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == "FUNCTIONS")
    assert isinstance(table_of.value, ast.Dict)
    return {ast.unparse(key).removeprefix("rules.") for key in table_of.value.keys if key is not None}


def tested(option: str, wing: str) -> str:
    """The test files of a framework's generation that name an option."""
    files = sorted(TESTS.glob("*.py")) + sorted(TESTS.glob("goldens/*.py"))
    known = GENERATION_TESTS[wing]
    named = [f for f in files if f.stem in known and re.search(rf"\b{option}\b", f.read_text("utf-8"))]
    if not named:
        raise SystemExit(f"`{option}` must be tested for {wing} in one of {', '.join(sorted(known))}, got none.")
    return ", ".join(f"`{file.stem}`" for file in named)


def sentence(rule: type) -> str:
    """The docstring of a rule on one line, its source and differences left out."""
    return " ".join((rule.__doc__ or "").split("Source:")[0].split(f"# {MARK}")[0].split())


def differences() -> str:
    """Every place of the code that is marked as differing from the reference, with the words that stand there."""
    rows = []
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).as_posix()
        rows += [[f"`{room}`", f"`{where}`", words] for where, words in marks(path)]
    return table(["room", "place", "how it differs"], rows)


def marks(path: Path) -> Iterator[tuple[str, str]]:
    """Where in a file the mark stands, and the sentence after it, which may go on in the next comment lines."""
    text = path.read_text(encoding="utf-8")
    lines, module = text.replace(OLDER, MARK).splitlines(), ast.parse(text)
    for number, line in enumerate(lines, 1):
        before, found, words = line.partition(MARK)
        if not found:
            continue
        parts = [words.strip()]
        for following in lines[number:] if before.strip() == "#" else []:
            if not following.strip().startswith("#") or MARK in following:
                break
            parts.append(following.strip().lstrip("# "))
        yield place(module, number), " ".join(part for part in parts if part)


def place(module: ast.Module, number: int) -> str:
    """The name of what a line belongs to: the function or class around it, or what the next statement defines."""
    names: list[str] = []
    body: list[ast.stmt] = module.body
    while True:
        holder = next((n for n in body if n.lineno <= number <= (n.end_lineno or 0)), None)
        if not isinstance(holder, ast.ClassDef | ast.FunctionDef):
            break
        names.append(holder.name)
        body = holder.body
    following = next((n for n in body if n.lineno > number), None) if holder is None else holder
    if not names or isinstance(following, ast.FunctionDef | ast.ClassDef):
        names.append(defined_by(following))
    return ".".join(name for name in names if name)


def defined_by(node: ast.stmt | None) -> str:
    """The name that a statement gives to something; empty if none."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0])
    return ast.unparse(node.target) if isinstance(node, ast.AnnAssign) else ""


PARTS = {
    "honoured_options": honoured_options,
    "refused_options": refused_options,
    "score_rules": score_rules,
    "differences": differences,
}


def made(text: str) -> str:
    """A page with its parts written anew."""
    return PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n{found[3]}", text)


def stale_pages() -> list[Path]:
    """The pages whose parts are not what the code says now."""
    pages = [page for page in sorted(DOCS.glob("*.md")) if PART.search(page.read_text(encoding="utf-8"))]
    return [page for page in pages if made(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit with 1 if a page is not up to date")
    check = parser.parse_args().check
    for page in stale_pages():
        if check:
            print(f"{page} is not up to date: run python docs/make_tables.py")
        else:
            page.write_text(made(page.read_text(encoding="utf-8")), encoding="utf-8")
            print(f"wrote {page}")
        if check:
            return 1
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(SOURCE.parent))
    sys.exit(main())
