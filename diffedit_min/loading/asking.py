"""Ask a network what it predicts: the noise (epsilon), the velocity (v_prediction) or the clean latent (sample).

Files say it, or don't, or are wrong about it; but it can be measured. A photograph's latent is noised, and what the
U-Net returns is read in each of the three ways as a prediction of the noise. The right reading is far nearer to the
true noise than the other two.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageFilter

from ..core.schedule import READINGS, add_noise, standard_noise
from ..networks.finite import NotFinite
from ..networks.stable_diffusion import StableDiffusion
from ..pictures.photo import photograph
from ..pictures.picture import fit
from .sources import Checkpoint

# At these noise levels the three readings lie far apart. (Without noise all networks are poor at finding it; and x_t
# with much noise is almost the noise itself, whatever a network says.)
ABARS = (0.6, 0.4, 0.25)
LARGEST_SIDE = 256      # pixels: enough for a clear answer, and a quarter of the work of 512 px
BLUR = 1 / 16           # of the side: detail is hard to tell from noise, above all for small networks

# The answer is clear if the best reading's error is below these parts of the two others (tests/test_asking.py).
OF_SCALING = 0.8
OF_NEXT = 0.6

LARGEST_LATENT = 3      # root mean square; a scaling_factor is chosen so that it is about 1


@dataclass(frozen=True)
class Answer:
    """What a U-Net's output is, measured. Errors are mean squared errors of the noise, whose variance is 1."""

    errors: dict[str, float]    # of the noise prediction, by reading: "epsilon", "v_prediction", "sample"
    scaling: float              # the smallest error of any multiple of x_t, for which no network is needed
    latent: float = 1.0         # root mean square of the photograph's latent

    @property
    def prediction_type(self) -> str | None:
        """The reading that is clearly right; None if none is, as with random weights, which predict nothing."""
        best, following = sorted(self.errors, key=self.errors.__getitem__)[:2]
        is_clear = self.errors[best] < min(OF_SCALING * self.scaling, OF_NEXT * self.errors[following])
        return best if is_clear else None

    def __str__(self) -> str:
        errors = ", ".join(f"{error:.2f} read as {reading}" for reading, error in self.errors.items())
        return (f"on a noised photograph the error of what it predicts is {errors} (a multiple of the input: "
                f"{self.scaling:.2f})")


@torch.no_grad()
def ask(
    model: StableDiffusion, picture: Image.Image | None = None, seed: int = 0, abars: Sequence[float] = ABARS
) -> Answer:
    """Ask the model's U-Net what it predicts, whatever `model.prediction_type` says: one row for each noise level.

    picture: another one than the package's photograph. seed: of the noise. abars: the noise levels, about.
    The picture is shrunk to at most 256 x 256 px, and the text is empty. Input channels beyond the latent's
    (InstructPix2Pix, inpainting) are zeros.
    """
    x0 = model.encode(blurred(model, photograph() if picture is None else picture))
    raw, context, schedule = replace(model, prediction_type="epsilon"), model.embed([""]), model.schedule
    more = x0.new_zeros(1, model.unet.config.in_channels - x0.shape[1], *x0.shape[2:])
    errors, scaling = dict.fromkeys(READINGS, 0.0), 0.0
    for i, wanted in enumerate(abars):
        t = min(range(schedule.T), key=lambda t: abs(schedule.abar[t] - wanted))
        abar, eps = schedule.abar[t], standard_noise(x0, (seed,), "asking", i)
        x = add_noise(x0, eps, abar)
        out = raw.eps(torch.cat([x, more], dim=1), t, context)
        for reading, eps_from in READINGS.items():
            errors[reading] += (eps_from(x, out, abar) - eps).square().mean().item() / len(abars)
        signal = abar * x0.square().mean().item()
        scaling += signal / (signal + 1 - abar) / len(abars)
    return Answer(errors, scaling, x0.square().mean().sqrt().item())


def blurred(model: StableDiffusion, picture: Image.Image) -> torch.Tensor:
    """Pixels (1, 3, H, W) of the picture, small and without detail."""
    area = min(model.native_area, LARGEST_SIDE**2)
    picture = picture.filter(ImageFilter.GaussianBlur(BLUR * min(picture.size)))
    return fit(picture, model.multiple, area)[0]


def settled(checkpoint: Checkpoint, model: StableDiffusion) -> str:
    """What the U-Net predicts: what the checkpoint says; if it says nothing, what the network answers.

    Warns if the network clearly contradicts what is said (one row shows that there is no contradiction); and if nothing
    is said and the answer isn't clear, in which case it is what models of this family usually predict. Raises
    ValueError if there is no such usual thing (SD 2.x).
    """
    name, said = checkpoint.name, checkpoint.prediction_type
    try:
        answer = ask(model, abars=ABARS if said is None else ABARS[1:2])
        if answer.latent > LARGEST_LATENT:
            warnings.warn(f"{name}: a photograph's latent is {answer.latent:.2g} large; usual is about 1. Its VAE's "
                          f"scaling_factor of {model.vae.config.scaling_factor:g} seems to be wrong", stacklevel=3)
        if said is not None and answer.prediction_type in (None, said):
            return said
        answer = answer if said is None else ask(model)
    except NotFinite:
        if said is None:
            raise
        return said             # the first edit will raise the error
    found = answer.prediction_type
    if said is not None:
        if found not in (None, said):
            warnings.warn(f"{name}: {checkpoint.said_by} says that it predicts {said}, but it seems to predict "
                          f"{found}: {answer}; if edits look wrong, give prediction_type={found}", stacklevel=3)
        return said
    if found is not None:
        return found
    if checkpoint.usual is None:
        raise ValueError(f"{name}: nothing says whether it predicts epsilon or v, and its network doesn't show it: "
                         f"{answer}; give prediction_type=epsilon (512-px models) or v_prediction (768-px models)")
    warnings.warn(f"{name}: nothing says what it predicts, and its network doesn't show it: {answer}; it is read as "
                  f"{checkpoint.usual}, as is usual for this family: give prediction_type=, which is sure",
                  stacklevel=3)
    return checkpoint.usual
