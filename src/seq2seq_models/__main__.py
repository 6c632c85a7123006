"""`python -m seq2seq_models`: the command `seq2seq-models`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
