"""The methods by name. Each is one paper and one file."""

from .base import Edit, Method, Step
from .cycle_diffusion import cycle_diffusion
from .diffedit import diffedit
from .direct_inversion import direct_inversion
from .edit_friendly import edit_friendly
from .encode_decode import encode_decode, invert
from .instruct_pix2pix import instruct_pix2pix
from .negative_prompt_inversion import negative_prompt_inversion
from .null_text import null_text
from .options import Options
from .prompt_to_prompt import prompt_to_prompt
from .sdedit import sdedit
from .unitune import unitune

METHODS: dict[str, Method] = {method.name: method for method in (
    diffedit, sdedit, encode_decode, prompt_to_prompt, null_text, negative_prompt_inversion, direct_inversion,
    cycle_diffusion, edit_friendly, unitune, instruct_pix2pix,
)}

__all__ = ["METHODS", "Edit", "Method", "Options", "Step", "invert", *METHODS]
