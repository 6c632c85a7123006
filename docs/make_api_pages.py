"""Writes the reference: a page for each class, with an example that tests run, and its shapes and errors from the code.

python docs/make_api_pages.py            # rewrites docs/api
python docs/make_api_pages.py --check    # exits with 1 if a page is not up to date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

API = Path(__file__).parent / "api"
WINGS = {"pytorch": ("", "PyTorch", "pt"), "tensorflow": ("TF", "TensorFlow", "tf"), "flax": ("Flax", "Flax", "jax")}
"""For each wing the prefix of its classes, its name, and its kind of tensors."""
HEADS = {
    "ForConditionalGeneration": "encoder, decoder and a head: what generates",
    "Model": "encoder and decoder without a head",
    "ForCausalLM": "the decoder alone, with a head",
}
FAMILIES = {
    "Pegasus": ("pegasus-demo", "A new museum will open in Glasgow in June. It cost three million euros."),
    "BlenderbotSmall": ("blenderbot-small-demo", "hello , my name is ann ."),
}
START = """from seq2seq_models import {family}Tokenizer, {name}
from seq2seq_models.bundled import demo_checkpoint

folder = demo_checkpoint("{demo}")
tokenizer = {family}Tokenizer.from_pretrained(folder)
model = {name}.from_pretrained(folder)
inputs = tokenizer("{text}", return_tensors="{kind}")
"""
FIRST_ID = {
    "pytorch": "start = torch.full((1, 1), model.config.decoder_start_token_id)",
    "tensorflow": "start = tf.fill((1, 1), model.config.decoder_start_token_id)",
    "flax": "start = jnp.full((1, 1), model.config.decoder_start_token_id)",
}
IMPORTS = {
    "pytorch": "import torch\n\n",
    "tensorflow": "import tensorflow as tf\n\n",
    "flax": "import jax.numpy as jnp\n\n",
}
GENERATE = {
    "pytorch": "ids = model.generate(**inputs)",
    "tensorflow": "ids = model.generate(**inputs)",
    "flax": "ids = model.generate(**inputs).sequences",
}
OWN = {
    "PegasusConfig": (
        "seq2seq_models.core.config",
        """from seq2seq_models import PegasusConfig, PegasusForConditionalGeneration

config = PegasusConfig(d_model=64, encoder_layers=2, decoder_layers=2, vocab_size=1000)
model = PegasusForConditionalGeneration(config)  # with random weights
print(model.num_parameters(), config.architecture.norm)
""",
    ),
    "BlenderbotSmallConfig": (
        "seq2seq_models.core.config",
        """from seq2seq_models import BlenderbotSmallConfig

config = BlenderbotSmallConfig(d_model=64, encoder_attention_heads=4)
config.save_pretrained("my-config")
print(BlenderbotSmallConfig.from_pretrained("my-config").to_diff_dict())
""",
    ),
    "GenerationConfig": (
        "seq2seq_models.core.generation_config",
        """from seq2seq_models import GenerationConfig, PegasusForConditionalGeneration
from seq2seq_models.bundled import demo_checkpoint

model = PegasusForConditionalGeneration.from_pretrained(demo_checkpoint("pegasus-demo"))
print(model.generation_config)
model.generation_config.num_beams = 4
settings = GenerationConfig(num_beams=2, length_penalty=0.8, max_new_tokens=20)
""",
    ),
    "PegasusTokenizer": (
        "seq2seq_models.core.pegasus",
        """from seq2seq_models import PegasusTokenizer
from seq2seq_models.bundled import demo_checkpoint

tokenizer = PegasusTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))
batch = tokenizer(["It rained.", "A fire broke out at the harbour."], padding=True, return_tensors="np")
print(batch["input_ids"].shape, tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True))
""",
    ),
    "BlenderbotSmallTokenizer": (
        "seq2seq_models.core.blenderbot_small",
        """from seq2seq_models import BlenderbotSmallTokenizer
from seq2seq_models.bundled import demo_checkpoint

tokenizer = BlenderbotSmallTokenizer.from_pretrained(demo_checkpoint("blenderbot-small-demo"))
print(tokenizer.tokenize("Hello, my name is Ann."))
print(tokenizer.decode(tokenizer("Hello, my name is Ann.")["input_ids"]))
""",
    ),
    "Conversation": (
        "seq2seq_models.core.conversation",
        """from seq2seq_models import Conversation, pipeline

talk = Conversation("hello , my name is ann .")
chat = pipeline("chat")
print(chat(talk).reply)
talk.add_user("what is my name ?")
print(chat(talk).reply)
""",
    ),
    "pipeline": (
        "seq2seq_models.pipelines",
        """from seq2seq_models import pipeline

summarize = pipeline("summarization", num_beams=2)
print(summarize("A new museum will open in Glasgow in June. It cost three million euros."))
""",
    ),
    "DataCollatorForSeq2Seq": (
        "seq2seq_models.core.collator",
        """from seq2seq_models import DataCollatorForSeq2Seq, PegasusTokenizer
from seq2seq_models.bundled import demo_checkpoint

tokenizer = PegasusTokenizer.from_pretrained(demo_checkpoint("pegasus-demo"))
texts = {"It rained.": "Rain", "A fire broke out at the harbour.": "Fire at harbour"}
rows = [{**tokenizer(text), "labels": tokenizer(wanted)["input_ids"]} for text, wanted in texts.items()]
batch = DataCollatorForSeq2Seq(tokenizer, return_tensors="np")(rows)
print({name: values.shape for name, values in batch.items()})
""",
    ),
}
"""What has a page and is the same for every framework: where it is, and its example."""


def example(wing: str, family: str, head: str) -> str:
    """Python that shows what a class is for."""
    prefix, _, kind = WINGS[wing]
    demo, text = FAMILIES[family]
    start = START.format(family=family, name=f"{prefix}{family}{head}", demo=demo, text=text, kind=kind)
    if head == "ForConditionalGeneration":
        return f"{start}{GENERATE[wing]}\nprint(tokenizer.batch_decode(ids, skip_special_tokens=True)[0])\n"
    if head == "Model":
        call = "outputs = model(**inputs, decoder_input_ids=start)"
        shown = "print(outputs.last_hidden_state.shape, outputs.encoder_last_hidden_state.shape)"
        return f"{IMPORTS[wing]}{start}{FIRST_ID[wing]}\n{call}\n{shown}\n"
    return f'{start}outputs = model(inputs["input_ids"])\nprint(outputs.logits.shape)  # [B, T, V]\n'


def pages() -> dict[Path, str]:
    """The text of every page of the reference."""
    found = {}
    for wing, (prefix, title, _) in WINGS.items():
        names = [(f"{prefix}{family}{head}", family, head) for family in FAMILIES for head in HEADS]
        rows = "".join(f"| [{name}]({wing}/{name}.md) | {HEADS[head]} |\n" for name, _, head in names)
        both = f"The classes of both families are the same code: {prefix}BlenderbotSmall… has another config."
        found[API / f"{wing}.md"] = f"# {title} classes\n\n{both}\n\n| class | is |\n| --- | --- |\n{rows}"
        for name, family, head in names:
            found[API / wing / f"{name}.md"] = page(name, f"seq2seq_models.{wing}", example(wing, family, head))
    for name, (module, shown) in OWN.items():
        found[API / "core" / f"{name}.md"] = page(name, module, shown)
    rows = "".join(f"| [{name}](core/{name}.md) |\n" for name in OWN)
    found[API / "core.md"] = f"{CORE}\n| page |\n| --- |\n{rows}{FURTHER}"
    return found


CORE = """# Configurations, tokenizers, pipelines

The same for every framework.
"""
FURTHER = """
::: seq2seq_models.core.gap_sentences.DataCollatorForGapSentences

::: seq2seq_models.plots
    options:
      show_root_heading: true

::: seq2seq_models.auto
    options:
      show_root_heading: true

::: seq2seq_models.core.outputs
    options:
      show_root_heading: true

::: seq2seq_models.errors
    options:
      show_root_heading: true
"""


def page(name: str, module: str, shown: str) -> str:
    """A page: an example and what the docstrings say."""
    return f"# {name}\n\n```python\n{shown}```\n\n::: {module}.{name}\n    options:\n      show_root_heading: false\n"


def stale() -> list[Path]:
    """The pages that are not what they should be, those that should not be there among them."""
    wanted = pages()
    there = set(API.rglob("*.md"))
    odd = [path for path, text in wanted.items() if path not in there or path.read_text(encoding="utf-8") != text]
    return sorted({*odd, *(there - set(wanted))})


def main() -> int:
    """Writes or checks the pages; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args().check:
        for path in stale():
            print(f"{path} is not up to date: run python docs/make_api_pages.py", file=sys.stderr)
        return bool(stale())
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
