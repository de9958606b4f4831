"""Pairs train networks: one run, and many."""
