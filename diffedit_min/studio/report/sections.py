"""One edit as a report tells it: section by section, each with its words, equations, functions, settings and pictures.

What was not kept or never made is told too, and why. How it looks is rendering.py's and page.html's.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...core.diffedit import MapOptions
from ...core.mask import difference_map
from ...core.schedule import levels_used
from ...core.state import Trajectory
from ...core.task import Step
from ...methods import Edit
from ...methods.help import sentence_of
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.drawing import overlay
from ...pictures.picture import Frame, fit, heat, mask_image, psnr, to_image, unfit
from . import texts
from .contents import Cells, Report, Row, Section, Shot
from .pictures import ENCODED, FRAMES, LARGE, SMALL, at_most, decoded, difference, drawn, latents_to_show, spread_over

BINS = 40           # of the map's histogram
BRIGHTER = 4        # times, the difference between input and result


@torch.no_grad()
def tell(
    edit: Edit, model: StableDiffusion, truth: Image.Image | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Report:
    """The whole report. It costs no U-Net row and at most 31 VAE decodings, of which `on_step` is told.

    truth: the true answer, if it is known. ValueError if the model isn't the one that made the edit.
    """
    if edit.settings["model"] != model.name:
        raise ValueError(f"the edit was made by {edit.settings['model']!r}, not by {model.name!r}: pass that model")
    teller = Teller(edit, model, truth, on_step)
    sections = [teller.picture(), *teller.predictions(), teller.mask(), *teller.coding(), teller.result()]
    sentences = {name: sentence_of(option) for name, option in edit.method.known.items()}
    return Report(edit.settings, sentences, teller.overview(), sections, teller.cells(), teller.measures(),
                  edit.rows_for, edit.rows, edit.backward_rows)


class Teller:
    """What the sections share: the edit, its latents decoded, and the sizes at which pictures are shown."""

    def __init__(self, edit: Edit, model: StableDiffusion, truth: Image.Image | None,
                 on_step: Callable[[Step], None] | None):
        self.edit, self.model, self.truth, self.settings = edit, model, truth, edit.settings
        self.small, self.large = at_most(edit.frame, SMALL), at_most(edit.frame, LARGE)
        self.pixels, _ = fit(edit.input, model.multiple, model.native_area, edit.settings["size"])      # (1, 3, H, W)
        x0 = edit.encoded[0].latent if edit.encoded else model.encode(self.pixels)
        self.latent_shape = tuple(x0.shape[1:])
        self.reconstruction = unfit(model.decode(x0.to(model.device)).nan_to_num(), edit.frame)
        self.shown = decoded(model, latents_to_show(edit, model.schedule), self.small, on_step)
        for letter, clean in (("x", self.reconstruction), ("y", edit.image)):
            self.shown[f"{letter} 0"] = self.shown[f"x0 of {letter} 0"] = sized(clean, self.small)
        self.valid = edit.frame.valid(edit.factor)                                                      # bool (h, w)
        self.found = edit.mask_map is not None and "mask" not in edit.settings["given"]     # a mask cut from a map

    def picture(self) -> Section:
        frame, seen, note = self.edit.frame, to_image(self.pixels), "the input as the network sees it"
        if frame.padded != frame.scaled:
            inside = Image.new("L", frame.padded)
            inside.paste(255, (0, 0, *frame.scaled))
            seen, note = overlay(seen, inside), f"{note}; what is dark is mirrored padding"
        seen.thumbnail((LARGE, LARGE))
        lost = decibels(psnr(self.reconstruction, self.edit.input))
        settings = {"picture": by(frame.size), "the network sees": by(frame.padded), "latent": by(self.latent_shape)}
        return Section("picture", "The picture and its latent", texts.PICTURE, settings, [Row("", [
            Shot(seen, note, f"The input picture{self.said('reference')}"),
            Shot(sized(self.reconstruction, self.large), f"what the VAE alone makes of it, {lost}",
                 "The input picture, encoded and decoded again without an edit")])])

    # ---- step 1

    def predictions(self) -> list[Section]:
        """Of the methods that find a mask by noise differences, unless it was given."""
        s, trace, rows, absent = self.settings, self.edit.trace, [], ""
        equal = s["query"] == s["reference"]
        if not self.found or not isinstance(self.edit.options, MapOptions) or not (
                equal or hasattr(self.edit.mask_map, "made")):
            return []
        if "noised" in trace:
            maps = [difference_map(trace["eps_query"][i : i + 1, None], trace["eps_reference"][i : i + 1, None],
                                   s["mask_norm"])[0] for i in range(len(trace["noised"]))]
            rows = [self.noise(i, scaled(difference, maps)) for i, difference in enumerate(maps)
                    if f"noised {i}" in self.shown]
        elif not equal and not self.edit.rows_for.get("mask"):
            absent = "The map is that of an earlier edit: nothing was predicted for it."
        elif equal:
            absent = "Query and reference are the same words, so the predictions would be too. None was made."
        else:
            absent = not_kept("The noised latents and the predictions")
        text = texts.predictions_text(s["mask_samples"], self.model.schedule.noised(s["mask_noise_ratio"]).t)
        settings = picked(s, {"mask_noise_ratio", "mask_samples", "seed"})
        return [Section("predictions", "Two predictions of the noise", text, settings, rows, absent)]

    def noise(self, i: int, difference: Tensor) -> Row:
        """What one of the noises shows; difference (h, w) in [0, 1]."""
        trace, small, factor = self.edit.trace, self.small, self.edit.factor
        taken = "A blurred picture, what the network takes the noised one for when told"
        return Row(f"Noise {i + 1} of {len(trace['noised'])}", [
            Shot(self.shown[f"noised {i}"], "the noised latent, decoded", "The input picture under heavy noise"),
            Shot(drawn(trace["eps_reference"][i], small, factor), "noise predicted, told the reference",
                 "Coloured noise"),
            Shot(drawn(trace["eps_query"][i], small, factor), "noise predicted, told the query",
                 "Coloured noise that looks much like the other prediction"),
            Shot(heat(difference, small, factor), "how far the two differ",
                 "A map over the picture, bright where the predictions differ"),
            Shot(self.shown[f"reference {i}"], "the picture implied, reference", f"{taken} the reference"),
            Shot(self.shown[f"query {i}"], "the picture implied, query", f"{taken} the query")])

    def mask(self) -> Section:
        edit, s, maps = self.edit, self.settings, []
        absent = "Nothing to change was found: the mask is empty." if edit.empty_mask else ""
        if edit.mask is None:
            return Section("mask", "No mask", texts.no_mask(s["method"]), {})
        covered = f"{edit.frame.share(edit.mask, edit.factor):.1%}"
        over = overlay(sized(edit.input, self.large), mask_image(edit.mask, self.large, edit.factor))
        last = Shot(over, f"the mask over the input; it covers {covered}",
                    f"The input picture, darkened but for the {covered} of it that the mask lets change")
        if not self.found:
            return Section("mask", "The mask", texts.mask_without_map(edit), picked(s, {"local_blend"}),
                           [Row("", [last])], absent)
        if "raw_map" in edit.trace:
            both = [edit.trace[name][0] for name in ("raw_map", "clipped_map")]                         # (h, w) each
            maps = [Shot(self.heat(scaled(m, both)), f"{name}: up to {m.cpu()[self.valid].max():.3g}",
                         f"A map over the picture, brightest where the predictions differ most, {name}")
                    for m, name in zip(both, ("raw", "its extremes cut off"), strict=True)]
        elif not edit.empty_mask and hasattr(edit.mask_map, "made"):
            absent = "The map before it was rescaled isn't there."
        maps.append(Shot(self.heat(edit.mask_map), "the map, from 0 to 1", "The map that the mask is cut from"))
        names = self.of_stages("map", "mask") - {"mask_noise_ratio", "mask_samples"}
        return Section("mask", "From the map to the mask", texts.mask_text(edit), picked(s, names),
                       [Row("", [*maps, last])], absent)

    def of_stages(self, *stages: str | None) -> set[str]:
        """The options that matter from one of these stages on."""
        return {name for name, option in self.edit.method.known.items() if option.stage in stages}

    def cells(self) -> Cells | None:
        """The map as the page's slider needs it; None if no threshold of it gives the mask."""
        threshold = texts.threshold_of(self.edit) if self.found else None
        if threshold is None and not (self.found and self.edit.empty_mask):
            return None
        threshold = 1.0 if threshold is None else threshold
        (width, height), factor = self.edit.frame.scaled, self.edit.factor
        rows, columns = math.ceil(height / factor), math.ceil(width / factor)
        values = self.edit.mask_map[:rows, :columns].float().cpu().numpy()
        return Cells(base64.b64encode(values.astype("<f4").tobytes()).decode(), columns, rows,
                     columns * factor / width, rows * factor / height, threshold,
                     np.histogram(values, BINS, (0, 1))[0].tolist())

    # ---- steps 2 and 3

    def coding(self) -> list[Section]:
        """Encoding and decoding, unless there was nothing to decode."""
        if self.edit.empty_mask and not self.edit.decoded:
            return [Section("encoding", "No encoding, no decoding", texts.NO_CODING, {})]
        s = self.settings
        return [self.encoding(picked(s, self.of_stages("levels", "encoding"))),
                self.decoding(picked(s, self.of_stages("decoding", "cost", None)))]

    def encoding(self, settings: dict[str, Any]) -> Section:
        edit = self.edit
        if not edit.encoded:
            return Section("encoding", "Where decoding starts", texts.start_text(edit), settings)
        made = edit.rows_for.get("encode") or len(edit.encoded) == 1
        absent = self.no_x0() if made else "The encoding is that of an earlier edit."
        rows = self.levels("x", edit.encoded, ENCODED + 1)
        return Section("encoding", "Encoding", texts.encoding_text(edit), settings, rows, absent)

    def decoding(self, settings: dict[str, Any]) -> Section:
        trajectory, text = self.edit.decoded, texts.decoding_text(self.edit)
        title = "Masked decoding" if texts.blended(self.edit) else "Decoding"
        if not trajectory:
            return Section("decoding", title, text, settings, absent=not_kept("The latents on the way"))
        if len(trajectory) == 1 and self.walks():
            return Section("decoding", title, text, settings, absent=not_kept("The latents on the way"))
        rows = [replace(row, shots=row.shots[::-1]) for row in self.levels("y", trajectory, FRAMES)]
        return Section("decoding", title, text, settings, rows, self.no_x0())

    def walks(self) -> bool:
        """Whether there is any level to go to."""
        return levels_used(self.settings.get("encoding_ratio", 1.0), self.settings["steps"]) > 0

    def no_x0(self) -> str:
        """Why it can't be told what the steps took for x0; "" if it can."""
        if not self.walks():
            return "The encoding ratio is 0: there is no level to go to."
        return "" if texts.straight(self.edit) else texts.CROOKED

    def levels(self, letter: str, trajectory: Trajectory, most: int) -> list[Row]:
        """Some of a trajectory's levels: the latents, and the x0 that the steps kept, where that can be told."""
        labels = {letter: "The latent, decoded"}
        if texts.straight(self.edit):
            labels[f"x0 of {letter}"] = "What the step takes for the picture"
        rows = []
        for name, label in labels.items():
            shots = []
            for j in spread_over(len(trajectory), most):
                level = f"level {j}, t = {trajectory[j].level.t}"
                shots.append(Shot(self.shown[f"{name} {j}"], level, f"{label}, at {level}"))
            rows.append(Row(label, shots))
        return rows

    # ---- the result

    def result(self) -> Section:
        edit = self.edit
        shots = [Shot(sized(edit.input, self.large), "input", f"The input picture{self.said('reference')}"),
                 Shot(sized(edit.image, self.large), "result", f"The edited picture{self.said('query')}"),
                 Shot(sized(difference(edit.input, edit.image, BRIGHTER), self.large),
                      f"their difference, {BRIGHTER} times", "Black where input and result agree")]
        if edit.source is not None:
            shots.append(Shot(sized(edit.source, self.large), "the input as made anew beside the edit",
                              "The input picture as the reference's branch decodes it"))
        if self.truth is not None:
            shots.append(Shot(sized(self.truth, self.large), "true answer", "What a perfect edit would be"))
        return Section("result", "The result", texts.RESULT, {}, [Row("", shots)])

    def overview(self) -> Row:
        """The edit at a glance."""
        edit = self.edit
        shots = [Shot(sized(edit.input, self.small), self.settings["reference"] or "input", "The input picture")]
        if self.found:
            shots.append(Shot(self.heat(edit.mask_map), "map", "Bright where the query would change it"))
        if edit.mask is not None:
            over = overlay(sized(edit.input, self.small), mask_image(edit.mask, self.small, edit.factor))
            shots.append(Shot(over, "mask", "The input picture, darkened where it must not change"))
        shots.append(Shot(sized(edit.image, self.small), self.settings["query"] or "result", "The edited picture"))
        if self.truth is not None:
            shots.append(Shot(sized(self.truth, self.small), "true answer", "What a perfect edit would be"))
        return Row("At a glance", shots)

    def measures(self) -> dict[str, str]:
        """PSNRs by what they compare."""
        edit, found = self.edit, {}
        inside = None if edit.mask is None else np.asarray(edit.mask_image) > 0                         # (H, W)
        if inside is not None and inside.any() and not inside.all():
            found["outside the mask, against the input"] = psnr(edit.image, edit.input, ~inside)
            found["inside the mask, against the input"] = psnr(edit.image, edit.input, inside)
        else:
            found["against the input"] = psnr(edit.image, edit.input)
        found["the VAE alone, against the input"] = psnr(self.reconstruction, edit.input)
        if self.truth is not None:
            found["against the true answer"] = psnr(edit.image, self.truth)
        return {name: decibels(value) for name, value in found.items()}

    def heat(self, values: Tensor) -> Image.Image:
        return heat(values, self.small, self.edit.factor)

    def said(self, which: str) -> str:
        """What the picture is said to show, if anything."""
        return f": {self.settings[which]}" if self.settings[which] else ""


# ---------------------------------------------------------------- small things


def sized(image: Image.Image, frame: Frame) -> Image.Image:
    """A picture of the input's size at the frame's."""
    return image if image.size == frame.size else image.resize(frame.size, Image.Resampling.LANCZOS)


def scaled(values: Tensor, among: Iterable[Tensor]) -> Tensor:
    """A map relative to the largest value among several, which are then seen on one scale."""
    top = max(m.max().item() for m in among)
    return values / top if top > 0 else values


def picked(settings: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """The named settings, in their own order, as far as the method has them."""
    return {name: value for name, value in settings.items() if name in names}


def by(sides: Iterable[int]) -> str:
    return " × ".join(map(str, sides))


def decibels(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.1f} dB"


def not_kept(what: str) -> str:
    return f'{what} were not kept: keep="trace" keeps them.'
