"""One edit as a report tells it: section by section, each with its words, equations, functions, settings and pictures.

What was not kept or never made is told too, and why. How it looks is rendering.py's and page.html's.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...bench.measures import against_truth
from ...core.mask import difference_map
from ...core.schedule import levels_used, x0_from_eps
from ...core.state import Trajectory
from ...core.task import Step
from ...methods import Edit
from ...methods.help import Text
from ...methods.paper import diffedit
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.drawing import overlay
from ...pictures.picture import fit, heat, mask_image, psnr, to_image, unfit
from .. import repeat
from . import texts
from .pictures import Bar, Shot, at_most, develop, difference, drawn, evenly, sized, x0_of_step

NOISES, ENCODED, FRAMES = 2, 5, 9   # of each how many are shown: at most 6 + 8 + 16 latents to decode
SMALL, LARGE = 320, 1024            # px: the longer side, at most, of what is shown in a row, and by itself
BINS = 40                           # of the map's histogram
BRIGHTER = 4                        # times, the difference between input and result
X0 = "x̂₀"
UNIT = Bar("heat", "0", "1")


Rows = Mapping[str, Sequence[Shot]]         # pictures to be seen side by side, by what stands above them


@dataclass(frozen=True)
class Section:
    """One step of the edit."""

    name: str                               # "picture", "predictions", "mask", "encoding", "decoding" or "result"
    title: str
    text: Text
    settings: Mapping[str, Any] = field(default_factory=dict)       # those that matter here
    rows: Rows = field(default_factory=dict)
    absent: str = ""                        # what isn't shown, and why


@dataclass(frozen=True)
class Report:
    """All that is shown of an edit, on a page or on a sheet."""

    edit: Edit
    overview: Sequence[Shot]
    sections: Sequence[Section]
    cut: Mapping[str, Any] | None           # the map, for the page to cut at another threshold; None: there is none
    measures: Mapping[str, str]
    again: Mapping[str, str]                # what repeats the edit: a command, Python


@torch.no_grad()
def tell(
    edit: Edit, model: StableDiffusion, truth: Image.Image | None = None,
    on_step: Callable[[Step], None] | None = None, again: Mapping[str, str] | None = None,
) -> Report:
    """The whole report. It costs no U-Net row and at most 31 VAE decodings, of which `on_step` is told.

    truth: the true answer, if it is known. again: see `report.page`. ValueError if the model isn't the one that made
    the edit.
    """
    if edit.settings["model"] != model.name:
        raise ValueError(f"the edit was made by {edit.settings['model']!r}, not by {model.name!r}: pass that model")
    teller = Teller(edit, model, truth)
    sections = [teller.picture(), *teller.predictions(), teller.mask(), *teller.coding(), teller.result()]
    shots = [shot for section in sections for shots in section.rows.values() for shot in shots]
    develop(shots, model, teller.small, on_step)
    if again is None:
        generated = edit.method.generates and not edit.encoded      # from a seed: there is no file
        again = repeat.both(edit.settings, None if generated else "picture.png", model)
    return Report(edit, teller.overview(), sections, teller.cut(), teller.measures(), again)


class Teller:
    """What the sections share: the edit, its latent decoded, and the sizes at which pictures are shown."""

    def __init__(self, edit: Edit, model: StableDiffusion, truth: Image.Image | None):
        self.edit, self.model, self.truth, self.settings = edit, model, truth, edit.settings
        self.small, self.large = at_most(edit.frame, SMALL), at_most(edit.frame, LARGE)
        self.pixels, _ = fit(edit.input, model.multiple, model.native_area, edit.settings["size"])      # (1, 3, H, W)
        self.x0 = edit.encoded[0].latent if edit.encoded else model.encode(self.pixels)                 # (1, C, h, w)
        self.reconstruction = unfit(model.decode(self.x0.to(model.device)).nan_to_num(), edit.frame)
        # A mask that was cut from a map, and a map that `find_map` made.
        self.found = edit.mask is not None and edit.mask_map is not None and "mask" not in edit.settings["given"]
        self.found_here = self.found and hasattr(edit.mask_map, "made")
        self.walks = levels_used(self.settings.get("encoding_ratio", 1.0), self.settings["steps"]) > 0

    def picture(self) -> Section:
        frame, seen, note = self.edit.frame, to_image(self.pixels), "the input as the network sees it"
        if frame.padded != frame.scaled:
            inside = Image.new("L", frame.padded)
            inside.paste(255, (0, 0, *frame.scaled))
            seen, note = overlay(seen, inside), f"{note}; what is dark is mirrored padding"
        seen.thumbnail((LARGE, LARGE))
        lost = decibels(psnr(self.reconstruction, self.edit.input))
        settings = {"picture": by(frame.size), "the network sees": by(frame.padded), "latent": by(self.x0.shape[1:])}
        if frame.shrunk:
            settings["shrunk"] = frame.shrunk
        return Section("picture", "The picture and its latent", texts.PICTURE, settings, {"": [
            Shot(seen, note, f"The input picture{self.said('reference')}"),
            Shot(sized(self.reconstruction, self.large), f"what the VAE alone makes of it, {lost}",
                 "The input picture, encoded and decoded again without an edit")]})

    # ---- step 1

    def predictions(self) -> list[Section]:
        """Of the methods that find a map by noise differences."""
        s, trace, rows, absent = self.settings, self.edit.trace, {}, ""
        if not self.found_here:
            return []
        level = self.model.schedule.noised(s["mask_noise_ratio"])
        if "noised" in trace:
            maps = difference_map(trace["eps_query"][None], trace["eps_reference"][None], s["mask_norm"])   # (n, h, w)
            rows = {f"Noise {i + 1} of {len(maps)}": self.noise(i, level.abar, apart, maps.max())
                    for i, apart in enumerate(maps[:NOISES])}
        elif s["query"] == s["reference"]:
            absent = "Query and reference are the same words, so the predictions would be too. None was made."
        elif not self.edit.rows_for.get("mask"):
            absent = "The map is that of an earlier edit: nothing was predicted for it."
        else:
            absent = not_kept("The noised latents and the predictions")
        settings = {"t": level.t, **{name: s[name] for name in ("mask_noise_ratio", "mask_samples", "seed")}}
        return [Section("predictions", "Two predictions of the noise", diffedit.texts["predictions"], settings, rows,
                        absent)]

    def noise(self, i: int, abar: float, apart: Tensor, most: Tensor) -> list[Shot]:
        """What one of the noises shows; apart (h, w): how far its two predictions lie apart, at most `most`."""
        trace, small, factor = self.edit.trace, self.small, self.edit.factor
        noised = trace["noised"][i : i + 1]
        prompts = {"reference": "the reference" if self.settings["reference"] else "the empty text",
                   "query": "the query"}
        eps = {prompt: trace[f"eps_{prompt}"][i : i + 1] for prompt in prompts}
        return [Shot(noised, "input under noise, decoded", "The input picture under heavy noise"),
                *(Shot(drawn(eps[prompt][0], small, factor), f"noise predicted, conditioned on {text}",
                       "Coloured noise: three channels of the prediction, as red, green and blue")
                  for prompt, text in prompts.items()),
                Shot(heat(apart / most, small, factor), "how far the two predictions lie apart",
                     "A map over the picture, bright where the predictions differ", Bar("heat", "0", f"{most:.2g}")),
                *(Shot(x0_from_eps(noised, eps[prompt], abar), f"predicted clean image {X0}, conditioned on {text}",
                       f"A blurred picture, which the noise prediction conditioned on {text} implies")
                  for prompt, text in prompts.items())]

    def mask(self) -> Section:
        edit, text = self.edit, texts.mask_text(self.edit)
        if edit.mask is None:
            return Section("mask", "No mask", text)
        absent = "Nothing to change was found: the mask is empty." if edit.empty_mask else ""
        over = overlay(sized(edit.input, self.large), mask_image(edit.mask, self.large, edit.factor))
        last = Shot(over, f"the mask over the input; it covers {edit.covered}",
                    f"The input picture, darkened but for the {edit.covered} of it that the mask lets change")
        if not self.found:
            return Section("mask", "The mask", text, rows={"": [last]}, absent=absent)
        maps = []
        if "raw_map" in edit.trace:
            both, valid = torch.cat([edit.trace["raw_map"], edit.trace["clipped_map"]]), edit.frame.valid(edit.factor)
            most = both.cpu()[:, valid].max()
            maps = [Shot(self.heat((m / most).clamp(max=1)), name, f"A map over the picture, {name}",
                         Bar("heat", "0", f"{most:.2g}"))
                    for m, name in zip(both, ("mean difference", "extremes cut off"), strict=True)]
        maps.append(Shot(self.heat(edit.mask_map), "the map, rescaled", "The map that the mask is cut from", UNIT))
        settings = self.options("map", "mask")
        rules = {name: settings[name] for name in settings if name not in ("mask_noise_ratio", "mask_samples")}
        return Section("mask", "From the map to the mask", text, rules, {"": [*maps, last]}, absent)

    def cut(self) -> dict[str, Any] | None:
        """The map's cells that hold picture, where the mask was cut from them, and their histogram; None if no
        threshold of the map gives the mask."""
        threshold = texts.threshold_of(self.edit) if self.found else None
        if threshold is None:
            return None
        sides, factor = self.edit.frame.scaled, self.edit.factor
        columns, rows = (math.ceil(side / factor) for side in sides)
        values = self.edit.mask_map[:rows, :columns].float().cpu().numpy().astype("<f4")
        return {"map": base64.b64encode(values.tobytes()).decode(), "columns": columns,
                "cell": [factor / side for side in sides],      # its width and height, as parts of the picture's
                "threshold": threshold, "histogram": np.histogram(values, BINS, (0, 1))[0].tolist()}

    # ---- steps 2 and 3

    def coding(self) -> list[Section]:
        """Encoding and decoding, unless there was nothing to decode."""
        if self.edit.empty_mask and not self.edit.decoded:
            return [Section("encoding", "No encoding, no decoding", texts.NO_CODING)]
        return [self.encoding(), self.decoding()]

    def encoding(self) -> Section:
        edit, settings = self.edit, self.options("levels", "encoding")
        if not edit.encoded:
            return Section("encoding", "Where decoding starts", texts.own_text(edit, "start"), settings)
        earlier = len(edit.encoded) > 1 and not edit.rows_for.get("encode")
        absent = "The encoding is that of an earlier edit." if earlier else self.no_x0()
        rows = self.levels(edit.encoded, ENCODED, self.reconstruction)
        return Section("encoding", "Encoding", texts.encoding_text(edit), settings, rows, absent)

    def decoding(self) -> Section:
        edit, rows, absent = self.edit, {}, self.no_x0()
        if len(edit.decoded) > 1:
            levels = self.levels(edit.decoded, FRAMES, edit.image)
            rows = {label: shots[::-1] for label, shots in levels.items()}      # from noise to picture
        elif self.walks:
            absent = not_kept("The latents on the way")
        title = "Masked decoding" if texts.blended(edit) else "Decoding"
        return Section("decoding", title, texts.decoding_text(edit), self.options("decoding", "cost", None), rows,
                       absent)

    def no_x0(self) -> str:
        """Why the predicted clean images of the steps are not shown; "" if they are."""
        if not self.walks:
            return "The encoding ratio is 0: there is no level to go to."
        return "" if texts.straight(self.edit) else texts.CROOKED

    def levels(self, states: Trajectory, most: int, clean: Image.Image) -> Rows:
        """Some of the levels, evenly: the latents, and the clean ones that the steps predict, where these show it.

        clean: what level 0 is, decoded.
        """
        chosen = evenly(0, len(states) - 1, most)
        latents = {"The latent, decoded": [states[j].latent for j in chosen[1:]]}
        if texts.straight(self.edit):
            latents[f"Predicted clean image {X0}"] = [x0_of_step(states[j], states[j - 1]) for j in chosen[1:]]
        captions = [f"level {j}, t = {states[j].level.t}" for j in chosen]
        return {label: [Shot(image, caption, f"{label}, at {caption}") for image, caption in
                        zip([sized(clean, self.small), *noisy], captions, strict=True)]
                for label, noisy in latents.items()}

    # ---- the result

    def result(self) -> Section:
        edit = self.edit
        shown = [(edit.input, "input", f"The input picture{self.said('reference')}"),
                 (edit.image, "result", f"The edited picture{self.said('query')}"),
                 (difference(edit.input, edit.image, BRIGHTER), f"difference × {BRIGHTER}",
                  "Black where input and result agree", Bar("grey", "0", f"{256 // BRIGHTER} of 255")),
                 (edit.source, "input, decoded anew beside the edit",
                  "The input picture as the reference's branch decodes it"),
                 (self.truth, "true answer", "What a perfect edit would be")]
        shots = [Shot(sized(image, self.large), *words) for image, *words in shown if image is not None]
        return Section("result", "The result", texts.RESULT, rows={"": shots})

    def overview(self) -> list[Shot]:
        """The edit at a glance."""
        edit, s, over = self.edit, self.settings, None
        if edit.mask is not None:
            over = overlay(sized(edit.input, self.small), mask_image(edit.mask, self.small, edit.factor))
        shown = [(edit.input, s["reference"] or "input", "The input picture"),
                 (self.heat(edit.mask_map) if self.found else None, "map", "Bright where the query would change it",
                  UNIT),
                 (over, "mask", "The input picture, darkened where it must not change"),
                 (edit.image, s["query"] or "result", "The edited picture"),
                 (self.truth, "true answer", "What a perfect edit would be")]
        return [Shot(sized(image, self.small), *words) for image, *words in shown if image is not None]

    def measures(self) -> dict[str, str]:
        """The figures by what they are."""
        edit, found = self.edit, {}
        inside = None if edit.mask is None else np.asarray(edit.mask_image) > 0                         # (H, W)
        if inside is not None and inside.any() and not inside.all():
            found["outside the mask"] = psnr(edit.image, edit.input, ~inside)
            found["inside the mask"] = psnr(edit.image, edit.input, inside)
        found["the whole picture"] = psnr(edit.image, edit.input)
        found["the VAE alone"] = psnr(self.reconstruction, edit.input)
        figures = {f"{name}: PSNR against the input": decibels(value) for name, value in found.items()}
        if self.truth is not None:
            figures |= {f"{name}: {what}": value for name, value, what in against_truth(edit, self.truth)}
        return figures

    # ---- small things

    def heat(self, values: Tensor) -> Image.Image:
        return heat(values, self.small, self.edit.factor)

    def options(self, *stages: str | None) -> dict[str, Any]:
        """The settings that matter from one of these stages on."""
        return {name: self.settings[name] for name, option in self.edit.method.known.items() if option.stage in stages}

    def said(self, which: str) -> str:
        """What the picture is said to show, if anything."""
        return f": {self.settings[which]}" if self.settings[which] else ""


def by(sides: Iterable[int]) -> str:
    return " × ".join(map(str, sides))


def decibels(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.1f} dB"


def not_kept(what: str) -> str:
    return f'{what} were not kept: keep="trace" keeps them.'
