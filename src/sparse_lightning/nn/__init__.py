"""Layers: sparse linear maps and activations."""
