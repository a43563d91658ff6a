"""The embedded model: its pictures, its training, its evaluation, and its checkpoint."""

from . import scenes as scenes
