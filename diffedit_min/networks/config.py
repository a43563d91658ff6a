"""What the networks' config dataclasses share: reading a published config.json without overlooking anything.

Those files hold many switches. The ones a network implements become fields; a switch that it does not implement must
stand at the value that leaves it out (`neutral`), or the checkpoint is refused: a network that ignores a switch loads
without complaint and draws noise. Anything else in the file (names, versions, training settings) changes no result.
"""

from dataclasses import fields
from typing import Any, TypeVar

Config = TypeVar("Config")


def read_config(cls: type[Config], raw: dict[str, Any], neutral: dict[str, tuple], where: str) -> Config:
    """Make the frozen dataclass `cls` from `raw`, the parsed config.json called `where` in errors.

    Fields that the file leaves out, or holds null for, keep their defaults. Lists become tuples. `neutral` maps each
    unsupported switch to the values that switch it off. Raises ValueError naming the key, its value and the file.
    """
    for key, off in neutral.items():
        if key in raw and raw[key] not in off:
            raise ValueError(f"{where}: {key} = {raw[key]!r} is not supported (only {' or '.join(map(repr, off))})")
    known = {f.name: _frozen(raw[f.name]) for f in fields(cls) if raw.get(f.name) is not None}
    try:
        return cls(**known)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def list_of_names(raw: dict[str, Any], key: str, default: tuple[str, ...], where: str) -> tuple[str, ...]:
    """What `raw` lists under `key`, the default if it is left out; ValueError if it is no list of names."""
    value = default if raw.get(key) is None else raw[key]
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{where}: {key} = {value!r} is not a list of names")
    return tuple(value)


def check_sizes(config: Any, largest: dict[str, int]) -> None:
    """ValueError unless each of these fields holds a whole number, or a tuple of them if it may, from 1 to its largest.

    Beyond, a config is a mistake or an attack: nothing is laid out, let alone allocated, for it.
    """
    single = [f.name for f in fields(config) if f.type is int]
    for name, most in largest.items():
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) and name not in single else (value,)
        if not numbers or len(numbers) > 16 or not all(type(n) is int and 1 <= n <= most for n in numbers):
            raise ValueError(f"{name} = {value!r} is not supported (only whole numbers from 1 to {most})")


def check_groups(config: Any) -> None:
    """ValueError unless each level's channels can be divided into the groups that its norms need."""
    for width in config.block_out_channels:
        if width % config.norm_num_groups:
            raise ValueError(f"a level of {width} channels can't be divided into {config.norm_num_groups} groups")


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
