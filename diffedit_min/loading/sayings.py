"""What a checkpoint says of itself: what its U-Net predicts, and which kinds can't be read here.

The weights' names and shapes don't show it, and every program writes it in another place:

    a scheduler's config    in folders: the class and `prediction_type`
    keys                    tensors without content that are only there for their names (ComfyUI, NoobAI)
    metadata                texts in a .safetensors file's header (Stability's ModelSpec, kohya, ComfyUI)
    a .yaml                 the original programs' config, beside the file

Each place that says something gives a `Saying`. Kinds that DDIM with these schedules can't run are refused here.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..core.schedule import READINGS
from ..networks.config import read_text
from .files import first_line

PREDICTIONS = tuple(READINGS)
WORDS = {"epsilon": "epsilon", "eps": "epsilon", "noise": "epsilon", "v": "v_prediction", "velocity": "v_prediction",
         "vpred": "v_prediction", "vprediction": "v_prediction", "x0": "sample", "sample": "sample"}
WAY_OUT = "give prediction_type=, the one that is right"

ZERO_SNR = "was trained with zero terminal SNR (abar is 0 at the last level), which is not supported"
EDM = "was trained in EDM's parameterisation, not DDPM's, which is not supported"
FLOW = "predicts the velocity of a flow (flow matching), not DDPM's noise, which is not supported"


class Saying(NamedTuple):
    """That the U-Net predicts this."""

    prediction_type: str        # one of `READINGS`
    by: str                     # what says it, in words for messages


def agreed(sayings: Iterable[Saying], where: str) -> Saying | None:
    """What all of them say, or None if there are none. Raises ValueError if they contradict each other."""
    sayings = list(sayings)
    for other in sayings[1:]:
        if other.prediction_type != sayings[0].prediction_type:
            raise ValueError(f"{where}: {sayings[0].by} says that it predicts {sayings[0].prediction_type}, {other.by} "
                             f"says {other.prediction_type}: {WAY_OUT}")
    return sayings[0] if sayings else None


def of_option(prediction_type: str | None) -> Saying | None:
    """What the caller says. Raises ValueError for an unknown value."""
    if prediction_type not in (None, *PREDICTIONS):
        raise ValueError(f"prediction_type {prediction_type!r} is not known; known are {', '.join(PREDICTIONS)}")
    return None if prediction_type is None else Saying(prediction_type, "the option prediction_type")


def of_word(word: Any, by: str) -> Saying | None:
    """What one of the usual words for it says; None for an empty one. Raises ValueError if it is something else."""
    text = re.sub(r"[^a-z0-9]", "", str(word).lower())
    if text in ("", "none", "null", "unknown"):
        return None
    if text not in WORDS:
        raise ValueError(f"{by} says that it predicts {word!r}, which is not known; known are "
                         f"{', '.join(PREDICTIONS)}: {WAY_OUT}")
    return Saying(WORDS[text], by)


# ---------------------------------------------------------------- keys and metadata


def check_keys(names: Collection[str], where: str) -> None:
    """Raises ValueError if one of the file's tensors is there to say that DDPM's schedules don't fit."""
    for key in names:
        if key in ("edm_mean", "edm_std") or key.startswith("edm_vpred."):
            raise ValueError(f"{where} {EDM} (it has the key {key}, as Playground 2.5 and CosXL have)")
        if key == "ztsnr":
            raise ValueError(f"{where} {ZERO_SNR} (it has the key ztsnr)")


def of_keys(names: Collection[str]) -> list[Saying]:
    """What the names of a file's tensors say."""
    return [Saying("v_prediction", "the key v_pred")] if "v_pred" in names else []


def check_metadata(metadata: Mapping[str, str], where: str) -> None:
    """Raises ValueError if the metadata says that DDPM's schedules don't fit."""
    if is_true(metadata.get("ss_zero_terminal_snr")):
        raise ValueError(f"{where} {ZERO_SNR} (its metadata says so: ss_zero_terminal_snr)")
    if "flow" in str(metadata.get("modelspec.noise_process", "")).lower():
        raise ValueError(f"{where} {FLOW} (its metadata says so: modelspec.noise_process)")


def of_metadata(metadata: Mapping[str, str]) -> list[Saying]:
    """What a .safetensors file's metadata says: each of the usual entries that is there."""
    found = []
    for key in ("modelspec.prediction_type", "modelspec.predict_key", "prediction_type"):
        found.append(of_word(metadata.get(key, ""), f"its metadata ({key})"))
    for key in ("ss_v_parameterization", "v_pred"):
        if str(metadata.get(key)).lower() in ("true", "1", "false", "0"):
            found.append(Saying(PREDICTIONS[is_true(metadata[key])], f"its metadata ({key})"))
    endings = {"modelspec.architecture": {"v2-768-v": "v_prediction", "v2-512": "epsilon"},
               "ss_base_model_version": {"sd_v1_v": "v_prediction", "sd_v2_v": "v_prediction"}}
    for key, kinds in endings.items():
        found += [Saying(kind, f"its metadata ({key})") for end, kind in kinds.items()
                  if str(metadata.get(key, "")).lower().endswith(end)]
    return [saying for saying in found if saying]


def is_true(text: Any) -> bool:
    return str(text).lower() in ("true", "1")


# ---------------------------------------------------------------- a .yaml

LONGEST_YAML = 2**20        # bytes


class Original(NamedTuple):
    """What a config of the original programs says of a single file, beside the sizes of its networks."""

    path: Path
    model: Mapping[str, Any]        # its `model.params`

    @classmethod
    def read(cls, path: Path) -> "Original | None":
        """From a .yaml; None if it holds no such config. Raises ValueError if it can't be read."""
        try:
            raw = yaml.safe_load(read_text(path, LONGEST_YAML))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise ValueError(f"{path} can't be read as YAML ({first_line(error)}): mend it, or move it away") from None
        params = entry(raw, "model", "params")
        return cls(path, params) if isinstance(params, dict) else None

    def denoiser(self) -> tuple[str, str, str]:
        """The classes of SD XL's denoiser, of its scaling and of its noise levels; "" where there is none."""
        config = self.model.get("denoiser_config")
        return (name_of(config), name_of(entry(config, "params", "scaling_config")),
                name_of(entry(config, "params", "discretization_config")))

    def check(self) -> None:
        """Raises ValueError if DDPM's schedules don't fit."""
        denoiser, scaling, levels = self.denoiser()
        if "EDM" in scaling + levels or denoiser == "Denoiser":
            why = next((name for name in (scaling, levels) if "EDM" in name), denoiser)
            raise ValueError(f"the model that {self.path} describes {EDM} ({why})")
        switches = ("ztsnr", "zsnr", "zero_snr", "zero_terminal_snr", "rescale_betas_zero_snr")
        if "ZeroSNR" in levels or any(is_true(self.model.get(switch)) for switch in switches):
            raise ValueError(f"the model that {self.path} describes {ZERO_SNR}")

    def said(self) -> list[Saying]:
        """What the U-Net predicts: SD 1 and 2 have `parameterization`, and eps where it is left out; SD XL a scaling.

        Raises ValueError for another one.
        """
        denoiser, scaling, _ = self.denoiser()
        word = scaling.removesuffix("Scaling") if denoiser else self.model.get("parameterization", "eps")
        found = of_word(word, self.path.name)
        return [found] if found else []

    def scheduler(self) -> dict[str, Any]:
        """Its noise schedule, under the names of scheduler_config.json; what it leaves out is not in it."""
        names = {"timesteps": "num_train_timesteps", "linear_start": "beta_start", "linear_end": "beta_end"}
        found = {ours: self.model[theirs] for theirs, ours in names.items() if theirs in self.model}
        kinds = {"linear": "scaled_linear", "sqrt_linear": "linear"}    # the original's "linear" is in sqrt(beta)
        if (kind := self.model.get("beta_schedule")) is not None:
            found["beta_schedule"] = kinds.get(str(kind), kind)
        return found

    def vae(self) -> dict[str, Any]:
        """What it says of the VAE, under the names of vae/config.json."""
        return {"scaling_factor": self.model["scale_factor"]} if "scale_factor" in self.model else {}


def entry(value: Any, *keys: str) -> Any:
    """value[keys[0]][keys[1]]..., or None where there is no such entry."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def name_of(config: Any) -> str:
    """The name of the class that an original config's entry is for, without its modules."""
    return str(entry(config, "target") or "").rpartition(".")[2]


# ---------------------------------------------------------------- a scheduler's config

# The classes whose training is DDPM's, so that only their own way of sampling differs.
DDPM_CLASSES = ("DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "PNDM", "EulerDiscrete",
                "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete",
                "DEISMultistep", "DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep",
                "DPMSolverSDE", "UniPCMultistep", "SASolver", "LCM", "TCD")


def check_scheduler(scheduler: Mapping[str, Any], where: str, told: bool) -> None:
    """Raises ValueError if a scheduler's config is for models that were not trained as DDPM's are.

    told: the caller says what the model predicts, so a class that isn't known here may be one of DDPM's.
    """
    kind = str(scheduler.get("_class_name") or "DDIMScheduler").removeprefix("Flax").removesuffix("Scheduler")
    if "Flow" in kind or is_true(scheduler.get("use_flow_sigmas")) or "flow" in str(scheduler.get("prediction_type")):
        raise ValueError(f"{where}: this model {FLOW}")
    if kind.startswith("EDM"):
        raise ValueError(f"{where}: this model {EDM}")
    if kind not in DDPM_CLASSES and not told:
        raise ValueError(f"{where}: how models for {kind}Scheduler are trained isn't known here; if it is as DDPM's "
                         f"are, {WAY_OUT}")


def of_scheduler(scheduler: Mapping[str, Any], by: str, folder: Path) -> Saying | None:
    """What a scheduler's config says; None if it holds no prediction_type. Raises ValueError for an unknown value."""
    value = scheduler.get("prediction_type")
    if value not in (None, *PREDICTIONS):
        raise ValueError(f"{folder / by}: prediction_type {value!r} is not known; known are "
                         f"{', '.join(PREDICTIONS)}")
    return None if value is None else Saying(value, by)


# ---------------------------------------------------------------- distilled for few steps

FEW_STEPS = re.compile(r"(?i:turbo|lightning|hyper[-_ ]?sd|perflow|sdxs|swiftbrush|nitro[-_ ]?sd|flash[-_ ]?sd|"
                       r"(sd|xl)[-_ ]?flash|(?<![a-z])(lcm|tcd|pcm|dmd2?)(?![a-z]))|LCM"
                       r"|(?<!\d)[1248][-_ ]?[Ss]teps?(?![a-z])")


def distilled(scheduler: Mapping[str, Any], names: Mapping[str, Any]) -> str | None:
    """What shows that a model was distilled to paint in a few steps, in words; None if nothing does.

    names: where a name of the model stands -> the name. Only the last part of a path counts.
    """
    kind = str(scheduler.get("_class_name"))
    if kind.startswith(("LCM", "TCD")):
        return f"its scheduler is {kind}"
    for where, name in names.items():
        if found := FEW_STEPS.search(str(name).rstrip("/").rpartition("/")[2]):
            return f"{found[0]!r} in {where}"
    if kind.startswith("Euler") and scheduler.get("timestep_spacing") == "trailing":
        return f"{kind} with trailing steps"
    return None
