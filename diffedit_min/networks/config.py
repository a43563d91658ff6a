"""Reading a published config.json into a network's config dataclass.

These files hold many switches. The switches that a network implements are fields of its dataclass. Every other switch
must have the value that turns it off (`neutral`); otherwise the checkpoint is refused, because a network that ignored
the switch would load without an error and paint noise. Other entries (names, versions, training settings) change no
result.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

Config = TypeVar("Config")
KINDS = {bool: "true or false", float: "a number"}
LARGEST_TEXT = 2**26   # bytes; published tokenizers have at most a tenth of it


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ValueError that names the file if there is none."""
    try:
        value = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:     # ValueError: no UTF-8, no JSON, or an endless number
        raise ValueError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} instead of a JSON object")
    return value


def read_text(path: Path, most: int = LARGEST_TEXT) -> str:
    """A file's text, which is a config or a part of a tokenizer. ValueError if it has more than `most` bytes."""
    if (size := path.stat().st_size) > most:
        raise ValueError(f"it has {size:,} bytes; expected at most {most:,}")
    return path.read_text(encoding="utf-8-sig")     # some editors write a mark before the text


def read_config(cls: type[Config], raw: dict[str, Any], neutral: dict[str, tuple], where: str) -> Config:
    """The frozen dataclass `cls` from `raw`, a parsed config.json that errors call `where`.

    Fields that are missing or null in the file keep their defaults. Lists become tuples. `neutral` maps each
    unsupported switch to the values that turn it off. Raises ValueError that names the key, its value and the file.
    """
    for key, off in neutral.items():
        if key in raw and raw[key] not in off:
            raise ValueError(f"{where}: {key} = {raw[key]!r:.60} is not supported (only {' or '.join(map(repr, off))})")
    known = {f.name: as_tuples(raw[f.name]) for f in fields(cls) if raw.get(f.name) is not None}
    for f in fields(cls):
        kinds = {bool: (bool,), float: (int, float)}.get(f.type)
        if f.name in known and kinds and type(known[f.name]) not in kinds:
            raise ValueError(f"{where}: {f.name} = {known[f.name]!r:.60} is not {KINDS[f.type]}")
    try:
        return cls(**known)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def list_of_names(raw: dict[str, Any], key: str, default: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The list of names at `raw[key]`, or the default if the key is missing; ValueError if it is something else."""
    value = default if raw.get(key) is None else raw[key]
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{where}: {key} = {value!r:.60} is not a list of names")
    return tuple(value)


def check_sizes(config: Any, largest: dict[str, int]) -> None:
    """ValueError unless each of these fields holds a whole number from 1 to its largest value (or a tuple of such).

    A larger number is a mistake or an attack; it is refused before any network is built from it.
    """
    single = [f.name for f in fields(config) if f.type is int]
    for name, most in largest.items():
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) and name not in single else (value,)
        if not numbers or len(numbers) > 16 or not all(type(n) is int and 1 <= n <= most for n in numbers):
            raise ValueError(f"{name} = {value!r:.60} is not supported (only whole numbers from 1 to {most})")


def check_groups(config: Any) -> None:
    """ValueError unless the number of channels at each level is a multiple of the number of norm groups."""
    for width in config.block_out_channels:
        if width % config.norm_num_groups:
            raise ValueError(f"a level of {width} channels can't be divided into {config.norm_num_groups} groups")


def as_tuples(value: Any) -> Any:
    return tuple(as_tuples(v) for v in value) if isinstance(value, list) else value
