"""The model cards of the demonstration checkpoints: what they are, and what they are not."""

from __future__ import annotations

_CARDS = {
    "pegasus-demo": """\
---
language: en
license: apache-2.0
library_name: seq2seq_models
pipeline_tag: summarization
---

# pegasus-demo

A tiny Pegasus that writes a headline over a short report. It shows that installation, loading and generation
work, without any download. **It is a toy**: it knows the eleven kinds of news that a script makes up (a fire, a
storm, a match, a strike ...), told in that script's own phrases, and nothing of the world. Names of people, towns
and companies it copies, mostly also those it has never read. Anything else it turns into a headline of those same
kinds, which is then wrong. For real summaries take a real checkpoint, such as `google/pegasus-xsum`.

- Architecture: Pegasus, 2 + 2 layers, 128 wide, real layout of special tokens (ids 0 to 105), sinusoidal positions.
- Text: made up by `examples/demo_reports.py` of this project; no person's words are in it. Reports have one to ten
  sentences, at most about 150 tokens; longer input is accepted (512 tokens), but was never trained.
- Training: `examples/make_demo_checkpoints.py`, which fine-tunes random weights with `examples/finetune_pytorch.py`, on
  one CPU core, a few minutes.
- Measured: {share:.1%} exact match on {count} held-out reports, with the settings in generation_config.json
  (`python examples/make_demo_checkpoints.py --evaluate {count}`). A text is held out by its checksum, so none of
  them was ever trained on; their phrases and most of their names were.
""",
    "blenderbot-small-demo": """\
---
language: en
license: apache-2.0
library_name: seq2seq_models
pipeline_tag: text-generation
---

# blenderbot-small-demo

A tiny BlenderbotSmall that holds a small talk and remembers what was said in it. It shows that installation,
loading and generation work, without any download. **It is a toy**: it knows the phrases of a script about names,
pets, hobbies, towns, food, moods and the weather, and nothing of the world. Words it has never read it copies where
a name is to be expected, not always to the letter. To anything else it answers with one of the same phrases. For a
real talk take a real checkpoint, such as `facebook/blenderbot_small-90M`.

- Architecture: BlenderbotSmall, 2 + 2 layers, 128 wide, 512 learned positions, the special tokens' real names.
- Text: made up by `examples/demo_talk.py` of this project; no person's words are in it. The reply is a function of the
  turns that are visible: what was dropped from a long talk is forgotten.
- Training: `examples/make_demo_checkpoints.py`, which fine-tunes random weights with `examples/finetune_pytorch.py`, on
  one CPU core, a few minutes: first on talks of up to two replies, then four, then seven, of which one in twenty was
  longer, up to the whole window. The decoder's rows of positions were trained as far as replies reach, about 30 tokens.
- Measured: {share:.1%} exact match on {count} held-out talks of one to seven replies, with the settings in
  generation_config.json (`python examples/make_demo_checkpoints.py --evaluate {count}`). A talk is held out by its
  checksum, so none of them was ever trained on; their phrases and most of their names were.
- The decoder scales its embeddings (`scale_embedding`), as ParlAI does. The PyTorch class of transformers 4.57 leaves
  that out and so writes something else; its TensorFlow and Flax classes do not.
""",
}


def card(name: str, share: float, count: int) -> str:
    """The card of a checkpoint.

    Args:
        name: which one.
        share: exact match that was measured.
        count: on how many held-out texts.
    """
    return _CARDS[name].format(share=share, count=count)
