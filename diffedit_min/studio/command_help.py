"""What --help shows of a command: its options in groups, whole sentences, and examples. Nothing heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import typer
import typer.core

# The groups of options, by the names of their parameters, in the order in which help shows them. Others come last.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "What to do": ("query", "reference", "instruction", "x", "y", "scene", "change", "method", "preset", "option",
                   "seed", "size", "like"),
    "The mask, and what lies outside it": ("mask", "mask_grow", "composite", "mask_feather", "crop"),
    "Many pictures": ("jobs", "batch", "overwrite", "retry_failed"),
    "The dataset": ("dataset", "data", "images", "split", "limit"),
    "What is compared": ("methods", "ratios", "against", "truth"),
    "What is measured": ("parts", "rows", "repeats", "threads", "metrics", "weights", "clip", "dino", "class_means",
                         "quick", "verify"),
    "What is written": ("out", "source_out", "map_out", "report", "strip", "film", "page", "pictures", "as_json"),
    "The model": ("model", "any_model", "device", "dtype", "prediction_type", "config", "revision"),
    "Where the page is": ("host", "port", "share", "root_path", "allow_host"),
    "What may be uploaded": ("max_megabytes", "max_megapixels"),
}

# Of each command two, each after what it does.
EXAMPLES: Mapping[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "demo": (
        ("turn the fruit of a drawn scene into pears", "--change fruit=pears"),
        ("another scene, with a page that explains every step", "--seed 3 --report demo.html"),
    ),
    "edit": (
        ("one picture, with a checkpoint of the Hub", 'photo.jpg --model OWNER/NAME --query "a basket of pears"'),
        ("all pictures of a folder, with fewer steps", 'in/*.png --query "a bowl of plums" -o steps=25 --out edits'),
    ),
    "mask": (
        ("where the fruit would change", 'a.png --query "a bowl of pears" --reference "a bowl"'),
        ("a smaller mask", 'a.png --query "a bowl of pears" -o mask_threshold=0.7'),
    ),
    "invert": (
        ("what is lost with half as many steps", "a.png -o steps=25"),
        ("with a sampler that loses next to nothing", "a.png -o sampler=edict"),
    ),
    "info": (
        ("the embedded model, all methods and all samplers", ""),
        ("what each option of a method does", "prompt-to-prompt"),
    ),
    "check": (
        ("a checkpoint's folder, without an edit", "path/to/folder --quick"),
        ("a checkpoint of the Hub, with pictures to look at", "OWNER/NAME --out check.png"),
    ),
    "grid": (
        ("a drawn scene, with a page in which a click shows an edit large",
         "--x guidance_scale=2,5 --y steps=25,50 --page grid.html"),
        ("seeds against guidance, on a picture of yours",
         'a.png --query "a cat" --x seed=0,1 --y guidance_scale=3,7'),
    ),
    "compare": (
        ("all methods but those that train, on a drawn scene", "--scene 3 --change fruit=pears --page compare.html"),
        ("two methods on a picture of yours", 'a.png --query "a cat" --methods diffedit sdedit'),
    ),
    "bench": (
        ("three methods on ten drawn scenes", "--dataset scenes --limit 10"),
        ("DiffEdit alone, with 25 and with 50 steps", "--dataset scenes --methods diffedit -o steps=25,50"),
    ),
    "speed": (
        ("the embedded model", "--out runs/speed"),
        ("the U-Net of Stable Diffusion 1.5, on a GPU", "--model sd15-shape --parts unet --device cuda"),
    ),
    "app": (
        ("the embedded models, in the browser", ""),
        ("a checkpoint, for others too, on port 8000", "--model path/to/folder --host 0.0.0.0 --port 8000"),
    ),
}


class Command(typer.core.TyperCommand):
    """A command whose help has groups and examples."""

    def get_short_help_str(self, limit: int = 0) -> str:
        """For the list of commands: the first sentence, never cut off."""
        return re.split(r"(?<=[.?])\s", " ".join((self.help or "").split()))[0]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The arguments, then the options, a section for each group."""
        group_of = {name: group for group, names in GROUPS.items() for name in names}
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Arguments", *GROUPS, "Other options")}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                argument = parameter.param_type_name == "argument"
                sections["Arguments" if argument else group_of.get(parameter.name, "Other options")].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples, as they are typed."""
        with formatter.section("Examples"):
            for does, words in EXAMPLES.get(self.name, ()):
                formatter.write_text(f"{does}:")
                formatter.write(f"{'':{formatter.current_indent}}  diffedit-min {self.name} {words}".rstrip() + "\n")


class ListsCommand(Command):
    """A command whose options that can be repeated also take several values after one name: --ratios 0.4 0.6 0.8."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        lists = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spread, current = [], None
        for i, word in enumerate(args):
            if word.startswith("-"):
                current = word if word in lists else None
            elif current and args[i - 1] != current:
                spread.append(current)
            spread.append(word)
        return super().parse_args(ctx, spread)
