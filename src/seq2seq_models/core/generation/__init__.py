"""Decoding loops of fixed shapes, once for the frameworks that compile them."""
