"""Damaged and odd inputs, made by chance from a seed: each must be taken, or refused by an error that was foreseen.

    python tests/mutations.py KIND [COUNT] [SEED]       KIND: one of KINDS, at the end of this file

Run as a program, since some inputs could end the process, its patience or its memory: what is tried is printed before
it is tried, and a time and a memory limit hold. The last line is a JSON list of those whose end nobody foresaw.
"""

import contextlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from checkpoints import small, write_folder
from PIL import Image

import diffedit_min as dm
from diffedit_min.loading.files import check_finite, open_weights
from diffedit_min.pictures.picture_files import open_picture
from diffedit_min.studio import cli

SECONDS, BYTES = 30, 12 * 2**30     # for one input; memory of the process, most of it mapped libraries
ODD = [None, True, "", "abc", "1e5", [], [1, 2], [[1]], {}, 0, -1, 1, 2, 7, 2**31, 2**53, 10**60, 0.5, -0.5, 1e30,
       1e308, float("nan"), float("inf")]

Try = tuple[str, Callable[[], Any]]     # what is tried, in words, and the trial


def odd_json(value: Any, chance: random.Random) -> tuple[str, Any]:
    """The value with one entry anywhere in it replaced, deleted or added; and what was done, in words."""
    value = json.loads(json.dumps(value))
    place, path = value, []
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = chance.choice(keys) if keys else None
        if key is None or not isinstance(place[key], dict | list) or chance.random() < 0.2:
            break
        place, path = place[key], [*path, key]
    what, odd = chance.choice(["replace", "replace", "replace", "delete", "add"]), chance.choice(ODD)
    if key is None or what == "add":
        place.update({"added": odd}) if isinstance(place, dict) else place.append(odd)
    elif what == "delete":
        del place[key]
    else:
        place[key] = odd
    return f"{what} {'/'.join(map(str, [*path, key]))}: {odd!r}"[:120], value


def odd_bytes(data: bytes, chance: random.Random, within: int | None = None) -> tuple[str, bytes]:
    """The data with some bytes changed (among the first `within`), or cut off, or with a piece doubled."""
    damaged, within = bytearray(data), min(within or len(data), len(data))
    what = chance.choice(["flip", "flip", "flip", "cut", "double"])
    at = chance.randrange(max(1, within))
    if what == "flip":
        for _ in range(chance.choice([1, 1, 4, 16])):
            damaged[chance.randrange(within)] = chance.randrange(256)
    elif what == "cut":
        del damaged[at:]
    else:
        damaged[at:at] = damaged[at : at + chance.randrange(1, 64)]
    return f"{what} at {at}", bytes(damaged)


def use(folder: Path) -> None:
    """Load a checkpoint, and edit a little with it."""
    model = dm.load(folder, device="cpu")
    picture = Image.new("RGB", (32, 32), "red")
    dm.diffedit(model, picture, "a basket of pears", "a bowl of pears", steps=4, mask_samples=1)


# ---------------------------------------------------------------- checkpoints


def headers(folder: Path, chance: random.Random) -> Iterator[Try]:
    """Headers of safetensors files, as JSON and as bytes."""
    path = write_folder(folder / "whole", small("sd15")) / "unet/diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    damaged = folder / "damaged.safetensors"

    def read() -> None:
        weights = open_weights([damaged])
        for name in weights.header:
            check_finite(weights.get(name).float(), name)

    while True:
        if chance.random() < 0.5:
            what, changed = odd_json(header, chance)
            text = json.dumps(changed).encode()
            data = len(text).to_bytes(8, "little") + text + whole[8 + length :]
        else:
            what, data = odd_bytes(whole, chance, within=8 + length)
        damaged.write_bytes(data)
        yield what, read


def configs(folder: Path, chance: random.Random) -> Iterator[Try]:
    """Entries of the JSON files of a folder, the card included."""
    whole = {family: write_folder(folder / family, small(family)) for family in ("sd15", "sdxl")}
    card = {"defaults": {"diffedit": {"steps": 10, "mask_clip": "none"}, "unitune": {"tuning_steps": 1}}}
    for checkpoint in whole.values():
        (checkpoint / "diffedit.json").write_text(json.dumps(card))
    while True:
        checkpoint = whole[chance.choice(["sd15", "sd15", "sd15", "sdxl"])]
        file = chance.choice(sorted(f for f in checkpoint.rglob("*.json") if "tokenizer" not in f.parent.name))
        before = file.read_text()
        what, changed = odd_json(json.loads(before), chance)
        file.write_text(json.dumps(changed))
        yield f"{file.relative_to(folder)}: {what}", lambda checkpoint=checkpoint: use(checkpoint)
        file.write_text(before)


def tokenizers(folder: Path, chance: random.Random) -> Iterator[Try]:
    """Files of tokenizers, as JSON and as bytes, with vocab.json and merges.txt or with tokenizer.json."""
    from transformers import AutoTokenizer

    checkpoint = write_folder(folder / "whole", small("sd15"))
    kept, place = folder / "kept", checkpoint / "tokenizer"
    shutil.copytree(place, kept / "old")
    AutoTokenizer.from_pretrained(place).save_pretrained(kept / "new")
    while True:
        shutil.rmtree(place)
        shutil.copytree(kept / chance.choice(["old", "new"]), place)
        file = chance.choice(sorted(place.iterdir()))
        if file.suffix == ".json" and chance.random() < 0.7:
            what, changed = odd_json(json.loads(file.read_text(encoding="utf-8")), chance)
            file.write_text(json.dumps(changed), encoding="utf-8")
        else:
            what, data = odd_bytes(file.read_bytes(), chance)
            file.write_bytes(data)
        yield f"{file.name}: {what}", lambda: use(checkpoint)


class Runs:
    """Unpickled by running a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def pickles(folder: Path, chance: random.Random) -> Iterator[Try]:
    """PyTorch files, new and old; whole ones with a command in them, and damaged ones. No command may run."""
    state = {"model.weight": torch.ones(3, 4), "bias": torch.zeros(2), "step": 3}
    made, file, ran = [], folder / "weights.bin", folder / "ran"
    for new in (True, False):
        for extra in ({}, {"x": Runs(f"touch {ran}")}):
            torch.save({**state, **extra}, file, _use_new_zipfile_serialization=new)
            made.append(file.read_bytes())
    made.append(pickle.dumps(Runs(f"touch {ran}")))

    def read() -> None:
        try:
            weights = open_weights([file])
            for name in weights.header:
                weights.get(name)
        finally:
            assert not ran.exists(), "a command in a pickle was run"

    while True:
        what, data = odd_bytes(chance.choice(made), chance)
        file.write_bytes(data)
        yield what, read


# ---------------------------------------------------------------- pictures and command lines


def pictures(folder: Path, chance: random.Random) -> Iterator[Try]:
    """Picture files of every format that Pillow writes, damaged; some under another format's name."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 4), dtype=np.uint8)
    made = {}
    for suffix in (".png", ".jpg", ".webp", ".tiff", ".bmp", ".gif", ".ppm", ".tga", ".eps", ".pcx", ".ico", ".jp2"):
        with contextlib.suppress(OSError, ValueError):      # a Pillow without that codec
            for mode in ("RGB", "RGBA", "L", "P"):
                with contextlib.suppress(OSError, ValueError, KeyError):    # a format without that mode
                    Image.fromarray(noise).convert(mode).save(folder / f"whole{suffix}")
                    made[suffix, mode] = (folder / f"whole{suffix}").read_bytes()
    file = folder / "damaged"
    while True:
        suffix, mode = chance.choice(sorted(made))
        what, data = odd_bytes(made[suffix, mode], chance, within=chance.choice([40, 200, None]))
        path = file.with_suffix(chance.choice([suffix, suffix, ".png", ".jpg"]))
        path.write_bytes(data)
        yield f"{suffix} {mode} as {path.name}: {what}", lambda path=path: open_picture(str(path))


COMMANDS = ["edit a.png", "edit a.png --query basket", "mask a.png --query basket", "invert a.png", "edit",
            "edit a.png m.png --query basket"]
WORDS = {
    "-o": ["steps=3", "steps=0", "steps=1e9", "steps=", "=3", "steps", "sampler=edict:p=0.5", "sampler=edict:p=x",
           "sampler=", "mask_samples=999999999999999999999999999999", "mask_threshold=nan", "encoding_ratio=inf",
           "guidance_scale=1e400", "guidance_interval=0.2,0.1", "unknown=1", "mask_clip=none", "negative_prompt="],
    "--seed": ["0", "-1", "1e3", str(2**70), "x", ""],
    "--size": ["32", "0", "-8", "1_000", str(2**31), "7", ""],
    "--out": ["b.png", "b.bmp", "none/b.png", "folder", "a.png", "b" * 300 + ".png", "loop.png", "", "-", "b.webp"],
    "--mask": ["m.png", "a.png", "none.png", "text.png", "folder", "/dev/zero", ""],
    "--mask-grow": ["3", "-3", "1e9", "99999999999"],
    "--mask-feather": ["2", "-1", str(2**40)],
    "--crop": ["mask", "0,0,8,8", "0,0,0,0", "-5,0,9,9", "1,2,3", "a,b,c,d", f"0,0,{2**40},9"],
    "--preset": ["fast", "none"],
    "--device": ["cpu", "meta", "cuda:99", "gpu", ""],
    "--dtype": ["float64", "int8", ""],
    "--method": ["sdedit", "invert", "encode-decode", "none", ""],
    "--like": ["a.png", "text.png", "none.png", "/dev/zero"],
    "--jobs": ["jobs.csv", "/dev/zero", "folder", "a.png"],
    "--report": ["r.html", "r.txt"],
    "--strip": ["s.png", "s.x"],
    "--query": ["", "b" * 3000, "(pears:1.5)", "\udcff", "a\0b"],
    "--reference": ["a bowl", "\udcff"],
    "--model": ["none", "text.png", "owner/none", "loop.png", "x" * 5000, "folder", "/dev/zero", ""],
    "--batch": ["0", "2", str(2**40)],
    "--prediction-type": ["v", "sample"],
    "--config": ["none", "text.png", "none.yaml"],
    "--plugin": ["none.py", "text.png", "folder"],
    "--composite": [None],
    "--overwrite": [None],
}


def command_lines(folder: Path, chance: random.Random) -> Iterator[Try]:
    """Commands with odd values, two or three at a time. Whatever comes, the input stays as it is."""
    os.chdir(folder)
    Image.new("RGB", (40, 32), "red").save("a.png")
    Image.new("L", (40, 32), 255).save("m.png")
    Path("text.png").write_text("no picture")
    Path("jobs.csv").write_text("image,query,seed\na.png,pears,1\na.png,,x\n")
    Path("folder").mkdir()
    os.symlink("loop.png", "loop.png")
    whole = {name: Path(name).read_bytes() for name in ("a.png", "m.png", "text.png", "jobs.csv")}

    def call(line: list[str]) -> None:
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            sys.argv = ["diffedit-min", *line]
            try:
                cli.main()
            except SystemExit as end:
                code = end.code or 0
        err.flush()
        said = err.buffer.getvalue().decode()
        assert code in (0, 1, 2) and "--debug shows where" not in said and "Traceback" not in said, said
        assert code != 1 or sum(part.startswith("error: ") for part in said.splitlines()) == 1, said
        changed = [name for name, before in whole.items() if Path(name).read_bytes() != before]
        left = [path.name for path in Path(".").rglob("*.part")]
        assert not changed and not left, f"changed {changed}, left {left}"

    while True:
        line = [*chance.choice(COMMANDS).split(), *"--model random -o steps=4 -o mask_samples=1 --quiet".split()]
        for option in chance.sample(sorted(WORDS), chance.choice([1, 1, 2, 3])):
            value = chance.choice(WORDS[option])
            line += [option] if value is None else [option, value]
        yield " ".join(line)[:300], lambda line=line: call(line)


KINDS = {"headers": headers, "configs": configs, "tokenizers": tokenizers, "pickles": pickles, "pictures": pictures,
         "command_lines": command_lines}


def run(kind: str, count: int, seed: int) -> list[str]:
    """Try so many inputs; the unforeseen ends. A ValueError of one line is foreseen; so is a UserWarning."""
    def too_long(*_: object) -> None:
        raise RuntimeError(f"took more than {SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    warnings.simplefilter("ignore")
    unforeseen = []
    with tempfile.TemporaryDirectory() as folder:
        tries = KINDS[kind](Path(folder), random.Random(seed))
        for number in range(count):
            what, trial = next(tries)
            print(f"{kind} {number}: {ascii(what)}", flush=True)
            signal.alarm(SECONDS)
            try:
                trial()
            except ValueError as error:
                if len(str(error).splitlines()) != 1 or isinstance(error, UnicodeError):
                    unforeseen.append(f"{number}: {what}: {error!r}")
            except BaseException as error:
                unforeseen.append(f"{number}: {what}: {error!r}")
            finally:
                signal.alarm(0)
        tries.close()
        os.chdir("/")
    return unforeseen


if __name__ == "__main__":
    kind, count, seed = sys.argv[1], *map(int, [*sys.argv[2:], "100", "0"][:2])
    print(json.dumps(run(kind, count, seed)))
