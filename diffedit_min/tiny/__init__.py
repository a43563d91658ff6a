"""The embedded models: their pictures (scenes), their training and their checkpoints."""

from . import scenes as scenes
