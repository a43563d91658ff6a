"""Datasets (being written)."""
from . import scenes

DATASETS = {"scenes": scenes.read}
