"""The errors of this library, one class per kind of fault; each is the built-in class raised there upstream too."""


class ConfigError(ValueError):
    """A configuration that no model can be built from; the message names the key, its value and what it must be."""


class GenerationError(ValueError):
    """A generation option that is unknown, out of range, contradictory or unsupported; raised before computing."""


class InputError(ValueError):
    """An input that the model cannot take: too long, of the wrong shape or dtype, or missing."""

    # TensorFlow raises an error of a function it traces as itself only if its class is made just like this one.
    __init__ = Exception.__init__


class CheckpointError(ValueError):
    """A checkpoint that is there but cannot be used: corrupt, truncated, or made for another architecture."""


class CheckpointNotFoundError(OSError):
    """A repository, revision or file that does not exist or cannot be reached."""


class TokenizerError(ValueError):
    """Tokenizer files or arguments that do not make a tokenizer, or text that cannot be encoded as asked."""


class MissingFrameworkError(ImportError):
    """A class was asked for whose framework is not installed; the message says which extra installs it."""
