"""Measurements of speed and of training recipes; each module is a command."""

from n2nlib.files import ROOT

RECORDS = ROOT / "benchmarks" / "records"  # what the searches found; their runs are in data/runs
