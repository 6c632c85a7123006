"""The rooms behind the configurations: their base, what values may be, and legacy files."""
