"""The rooms behind the tokenizers: reading vocabularies, segmenting words, and the arguments of a call."""
