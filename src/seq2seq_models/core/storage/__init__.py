"""The rooms behind loading and saving: file formats, fitting weights to a model, all-or-nothing writing."""
