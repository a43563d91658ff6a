"""What loading a checkpoint costs, in seconds and in memory, here and with diffusers (where it is installed).

    python tests/loading_cost.py --family sd15 --files float32 --dtype bfloat16 [--repeat 3] [--folder EXISTING]

Writes a random full-size checkpoint of that family (checkpoints.REAL) in a temporary folder, its files in the dtype
`--files`, or takes an existing folder; loads it in `--dtype` by each program in turn, `--repeat` times, each in a fresh
process, the first to go changing; prints a Markdown table. `--small` takes a few channels instead, to try this program
out. It is no test.

Seconds are counted from the call of load, after all imports: until it returns, and until each network has run once:
the text encoders on one prompt, the U-Net on one row of 64 x 64 latents, the VAE on a picture of only 64 x 64 pixels
there and back. The U-Net's row can take longer than loading, in float16 on a CPU by far: `--latents 8` makes it small.

Memory is what Linux says of the process (/proc/PID/status), read every 5 ms from outside, so that nothing the program
does can keep it from being read: RssAnon is its own memory, RssFile are pages of mapped files, which the system can
take back, and their sum is held against 1.15 x the weights' bytes in that dtype + 200 MB. All are peaks above the
values after the imports. MB are 10^6 bytes. "kernel" is the kernel's own record of the peak of the sum (VmHWM).
Page caches are warmed before each run, by reading all files.
"""

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DTYPES = ("float32", "float16", "bfloat16", "float64")
PROGRAMS = {"diffedit_min": "diffedit_min", "diffusers": "diffusers"}       # and the module that must be there
KINDS = ("RssAnon", "RssFile")
FACTOR, EXTRA = 1.15, 200e6
INTERVAL = 0.005


# ---------------------------------------------------------------- in the fresh process


def run_program(program: str, folder: str, dtype: str, side: int) -> None:
    """Load and run each network once. Says when the imports are done and at the end, each in a line."""
    import torch
    torch.set_grad_enabled(False)
    x, pixels = torch.randn(1, channels_of(folder), side, side), torch.rand(1, 3, 64, 64) * 2 - 1
    run = {"diffedit_min": prepare_ours, "diffusers": prepare_theirs}[program](folder, dtype, x, pixels)
    Path("/proc/self/clear_refs").write_text("5")       # VmHWM starts anew
    say(before=memory("self"))
    start = time.perf_counter()
    loaded = run()
    say(load=loaded - start, all=time.perf_counter() - start, highest=memory("self")["VmHWM"])


def prepare_ours(folder, dtype, x, pixels):
    """Everything imported -> a function that loads, notes the time, and runs the networks."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer  # noqa: F401

    import diffedit_min as dm
    import diffedit_min.loading

    def run() -> float:
        model = dm.load(folder, device="cpu", dtype=dtype)
        loaded = time.perf_counter()
        context = model.embed(["a bowl of apples"])
        x_, tokens = x.to(model.dtype), context.tokens
        model.unet(x_, 500, tokens, summary=model.summary(x_, context, None))
        model.decode(model.encode(pixels))
        return loaded

    return run


def prepare_theirs(folder, dtype, x, pixels):
    """The same, in the plain documented way."""
    import torch
    from diffusers import (  # noqa: F401
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer  # noqa: F401

    kind, xl = getattr(torch, dtype), (Path(folder) / "text_encoder_2").is_dir()
    x, pixels = x.to(kind), pixels.to(kind)

    def run() -> float:
        if xl:
            pipeline = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=kind)
        else:
            pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=kind, safety_checker=None)
        loaded = time.perf_counter()
        text = pipeline.encode_prompt("a bowl of apples", device="cpu", num_images_per_prompt=1,
                                      do_classifier_free_guidance=False)
        told = {"text_embeds": text[2], "time_ids": torch.tensor([[512, 512, 0, 0, 512, 512]])} if xl else None
        pipeline.unet(x, 500, text[0], added_cond_kwargs=told)
        pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mode())
        return loaded

    return run


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


# ---------------------------------------------------------------- from outside


def memory(pid: int | str) -> dict[str, int]:
    """Bytes, by kind; nothing where the process has ended."""
    wanted = (*KINDS, "VmHWM")
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":") for line in lines)
    return {name: int(value.split()[0]) * 1024 for name, value in pairs if name in wanted}


def measure(program: str, folder: Path, dtype: str, side: int) -> dict[str, float]:
    """One fresh process, watched from the end of its imports until it has run all networks."""
    command = [sys.executable, __file__, "--program", program, "--folder", str(folder), "--dtype", dtype,
               "--latents", str(side)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        lines = (line for line in process.stdout if line.startswith("{"))
        first, last = next(lines, None), None
        if first is not None:
            before = json.loads(first)["before"]
            peaks = dict.fromkeys((*KINDS, "sum"), 0)
            while process.poll() is None:
                now = memory(process.pid)
                if len(now) == len(KINDS) + 1:
                    above = {kind: now[kind] - before[kind] for kind in KINDS}
                    above["sum"] = sum(above.values())
                    peaks = {kind: max(peaks[kind], above[kind]) for kind in peaks}
                time.sleep(INTERVAL)
            last = next(lines, None)
        if process.wait() or last is None:
            errors.seek(0)
            raise SystemExit(f"{program} failed:\n{errors.read()}")
    result = json.loads(last)
    result["kernel"] = result.pop("highest") - sum(before[kind] for kind in KINDS)
    return {**peaks, **result}


def warm(folder: Path) -> None:
    """Read all files, so that no run reads them from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                while file.read(2**24):
                    pass


def weights_in(folder: Path) -> int:
    """The number of weights, from the headers of those files that a plain load reads."""
    from diffedit_min.loading.sources import find

    return sum(math.prod(network.weights.header[origin.name].shape)
               for network in find(str(folder)).networks.values() for origin in network.origins.values())


def channels_of(folder: str) -> int:
    return json.loads((Path(folder) / "unet" / "config.json").read_text())["in_channels"]


def write(folder: Path, family: str, files: str, small: bool) -> None:
    """In a process of its own, one network after the other, so that the memory is given back."""
    code = f"""
import checkpoints, torch
from safetensors.torch import save_file
configs = checkpoints.small({family!r}) if {small} else checkpoints.REAL[{family!r}]
folder = checkpoints.Path({str(folder)!r})
checkpoints.write_configs(folder, configs)
for part, file in checkpoints.NETWORKS.items():
    if part in configs:
        state = checkpoints.random_weights({{part: configs[part]}}, dtype=torch.{files})[part]
        save_file(state, folder / part / f"{{file}}.safetensors", {{"format": "pt"}})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def compare(folder: Path, dtype: str, side: int, repeat: int, title: str) -> None:
    there = [program for program, module in PROGRAMS.items() if importlib.util.find_spec(module)]
    import torch
    size = weights_in(folder) * getattr(torch, dtype).itemsize
    limit = FACTOR * size + EXTRA
    accelerate = "with" if importlib.util.find_spec("accelerate") else "without"
    print(f"{title}, loaded in {dtype}: {size / 1e6:.0f} MB of weights. Page cache warmed before each run. "
          f"U-Net run on {side} x {side}. {torch.get_num_threads()} threads; diffusers {accelerate} accelerate.\n")
    columns = ["program", "run", "load, s", "load and run, s", "RssAnon, MB", "RssFile, MB", "sum, MB", "kernel, MB",
               "sum / weights", f"sum <= {limit / 1e6:.0f} MB"]
    print(row(columns))
    print(row(["---"] * len(columns)))
    runs = {program: [] for program in there}

    def show(program: str, run: str, found: dict[str, float]) -> None:
        numbers = [f"{found[kind] / 1e6:.0f}" for kind in (*KINDS, "sum", "kernel")]
        print(row([program, run, f"{found['load']:.2f}", f"{found['all']:.2f}", *numbers,
                   f"{found['sum'] / size:.2f}", "yes" if found["sum"] <= limit else "no"]), flush=True)

    for run in range(1, repeat + 1):
        for program in there if run % 2 else reversed(there):   # the second finds just freed memory
            warm(folder)
            runs[program].append(measure(program, folder, dtype, side))
            show(program, str(run), runs[program][-1])
    for program, found in runs.items():
        show(program, "median", {key: statistics.median(one[key] for one in found) for key in found[0]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="sd15")
    parser.add_argument("--files", default="float32", choices=DTYPES)
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--latents", type=int, default=64, help="the side of what the U-Net runs on, a multiple of 8")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.program:
        run_program(options.program, str(options.folder), options.dtype, options.latents)
    elif options.folder:
        compare(options.folder, options.dtype, options.latents, options.repeat, str(options.folder))
    else:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), options.family, options.files, options.small)
            title = f"{'small ' if options.small else ''}{options.family}, files in {options.files}"
            compare(Path(folder), options.dtype, options.latents, options.repeat, title)


if __name__ == "__main__":
    main()
