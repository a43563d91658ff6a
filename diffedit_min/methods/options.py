"""What methods can be told: dataclasses whose fields are the options, checked when one is made."""

from dataclasses import MISSING, Field, dataclass, fields

from ..schedule import Level, Schedule, check_ratio


@dataclass(frozen=True)
class Options:
    """What every method can be told. Defaults are the papers'."""

    steps: int = 50                 # N, of the whole timeline; r N of them are taken
    guidance_scale: float = 7.5     # s, while decoding: 1 is the plain conditional prediction
    negative_prompt: str = ""       # stands in for the empty text in guidance

    def __post_init__(self) -> None:
        for f in fields(self):      # options typed at a command line or read from JSON: an int may stand for a float
            value, kind = getattr(self, f.name), kind_of(f)
            if type(value) is int and kind is float:
                object.__setattr__(self, f.name, float(value))
            elif type(value) is not kind:
                raise ValueError(f"{f.name} must be a {kind.__name__}, not {value!r}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if not 0 <= self.guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale must be a number from 0 up, not {self.guidance_scale}")

    def check_count(self, pictures: int) -> None:
        """ValueError if so many pictures at once are too many for these options."""


def kind_of(option: Field) -> type:
    """What an option's values are: of the same type as its default."""
    return type(option.default if option.default_factory is MISSING else option.default_factory())


@dataclass(frozen=True)
class RatioOptions(Options):
    """Of methods that start from the picture's own latent, brought to some level of noise."""

    encoding_ratio: float = 0.8     # r in [0, 1]: how far to go towards noise; more changes more

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio(self.encoding_ratio, "encoding_ratio")

    def levels(self, schedule: Schedule) -> tuple[Level, ...]:
        """Those that are walked: the clean one, and k noisier ones."""
        return schedule.levels(self.steps, self.encoding_ratio)
