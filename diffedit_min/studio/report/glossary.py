"""The words and symbols of reports and of the page, each explained in a sentence; a report links where each is first.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Term:
    """A word or a symbol."""

    shown: str
    sentence: str
    found: str      # a regular expression: where it stands, in text or in an equation that is HTML already


TERMS = (
    Term("VAE", "The variational autoencoder: a network that turns every small square of a picture into a few numbers, "
         "and such numbers back into a picture.", r"\bVAE\b"),
    Term("latent", "What the VAE makes of a picture: a few numbers for every small square. All steps work on latents; "
         "x_0 is the picture's own, and x_j is the one at noise level j.", r"\blatents?\b"),
    Term("ε", "Noise: in ε ∼ N(0, 1) the random noise that is added, in ε(x, t, text) the network's prediction of the "
         "noise in the latent x, conditioned on the text.", r"(?<!<sub>)<i>ε</i>|\bnoise predictions?\b"),
    Term("t", "The time that the network is told: how noisy a latent is, as a whole number that is 0 for almost clean "
         "latents and largest, often 999, for almost pure noise.", r"(?<!<sub>)<i>t</i>"),
    Term("ᾱ", "“Alpha bar”, how much of the picture is left at a noise level, from 1 (all of it) to 0 (nothing): a "
         "noised latent is √ᾱ times the picture's latent plus √(1 − ᾱ) times noise.", r"<i>ᾱ</i>"),
    Term("x̂_0", "The predicted clean image: what remains of a noised latent if the predicted noise is taken away.",
         r"<i>x̂</i><sub>0</sub>|\bpredicted clean images?\b"),
    Term("∅", "The empty text: the network predicts the noise without being told what the picture shows.",
         r"∅|\bempty text\b"),
    Term("k", "The number of noise levels that encoding goes up and decoding comes down again: the encoding ratio "
         "times the number of steps.", r"(?<!<sub>)<i>k</i>|\blevel k\b"),
    Term("map", "How far two noise predictions lie apart in each cell of the latent, on average over several noises: "
         "large where the words ask for a change.", r"\bmaps?\b"),
    Term("M", "The mask: 1 in the cells of the latent that may change, 0 in the others.", r"(?<!<sub>)<i>M</i>"),
    Term("guidance", "Classifier-free guidance: the prediction for the query is moved further away from the prediction "
         "for the empty text, so that the query counts more.", r"\bguid(?:ance|ed)\b"),
    Term("s", "The guidance scale: how far the prediction is moved; s = 1 means no guidance.", r"(?<!<sub>)<i>s</i>"),
    Term("network evaluations", "How often the U-Net predicts the noise in one latent. Each is one row of its input, "
         "so they are called rows too; most of an edit's time is spent on them.", r"\bnetwork evaluations?\b"),
    Term("PSNR", "Peak signal-to-noise ratio: how alike two pictures are, in decibels; at 20 dB the difference is "
         "plain, above 40 dB it is hard to see, and equal pictures have no limit.", r"\bPSNR\b"),
)
ANY = re.compile("|".join(f"(?P<term{i}>{term.found})" for i, term in enumerate(TERMS)))


class Linker:
    """Links each term to the glossary where it first appears, in the order in which it is given a page's parts."""

    def __init__(self) -> None:
        self.linked: set[tuple[str, bool]] = set()

    def __call__(self, part: str) -> "Markup":
        """The part of the page with its links; a plain text is escaped, an equation is HTML already."""
        from markupsafe import Markup, escape

        return Markup(ANY.sub(self._link, str(escape(part))))

    def _link(self, found: re.Match[str]) -> str:
        first = found.lastgroup, found[0].isascii()     # a Greek letter and the words for it are linked once each
        if first in self.linked:
            return found[0]
        self.linked.add(first)
        return f'<a class="term" href="#{found.lastgroup}">{found[0]}</a>'
