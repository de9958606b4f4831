"""Photographs become noisy pairs."""
