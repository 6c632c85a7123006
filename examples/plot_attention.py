#!/usr/bin/env python3
"""Draws where a summary looked in its source.

python examples/plot_attention.py --output attention.png                    # the report beside this script
python examples/plot_attention.py --model google/pegasus-xsum --text article.txt --output attention.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seq2seq_models import AutoModelForSeq2SeqLM, AutoTokenizer, plot_attention
from seq2seq_models.bundled import resolve_model


def main() -> None:
    """Read the command line, generate, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pegasus-demo", help="a folder, a name on the hub, or a bundled checkpoint")
    parser.add_argument(
        "--text", type=Path, default=Path(__file__).parent / "report.txt", help="a file with the source"
    )
    parser.add_argument("--num-beams", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="the picture; its ending says in which format")
    args = parser.parse_args()
    name = resolve_model(args.model)
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForSeq2SeqLM.from_pretrained(name)
    inputs = tokenizer(args.text.read_text(encoding="utf-8"), truncation=True, return_tensors="pt")
    outputs = model.generate(**inputs, num_beams=args.num_beams, return_dict_in_generate=True, output_attentions=True)
    plot_attention(outputs, tokenizer, inputs.input_ids).figure.savefig(args.output, dpi=80)
    print(tokenizer.decode(outputs.sequences[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()
