"""Reading files of weights, without running any code that a file may hold.

    .safetensors        a header with names, shapes and dtypes, then the numbers; the file is mapped into memory
    .bin .ckpt .pt      PyTorch's pickles, read with `weights_only`: only tensors and plain containers are built

The first bytes of a file show its format. A file that can't be read is refused in one line that says what it seems to
be.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..networks.finite import finite

# Dtypes as safetensors writes them.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
          "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# bytes; what was read of a mapped file counts as memory of this process, so the file is mapped again after this much
MAPPED_AT_ONCE = 2**28

# Published .ckpt files also hold objects of these classes, which the training program saved and nothing here needs.
# Each is read as an `Ignored`, an empty object, so that these classes are neither imported nor run.
IGNORED_CLASSES = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
             "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
             "pytorch_lightning.utilities.parsing.AttributeDict",
             "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "_codecs.encode")


class Weights(Protocol):
    """A file of named tensors."""

    path: Path
    header: Mapping[str, Tensor]    # name -> a tensor on the meta device: its shape and dtype, no data
    metadata: Mapping[str, str]     # the texts in a .safetensors file's header

    def get(self, name: str) -> Tensor:
        """One tensor, as stored. It may be mapped to the file, so it changes if the file is overwritten."""
        ...


class Safetensors:
    """A .safetensors file."""

    def __init__(self, path: Path):
        self.path = path
        self._open()
        self.metadata = self._file.metadata() or {}
        slices = {name: self._file.get_slice(name) for name in self._file.keys()}
        unknown = sorted({s.get_dtype() for s in slices.values()} - DTYPES.keys())
        if unknown:
            raise ValueError(f"{path} holds tensors of dtype {unknown[0]}; expected floats of 16, 32 or 64 bits")
        self.header = {name: torch.empty(s.get_shape(), dtype=DTYPES[s.get_dtype()], device="meta")
                       for name, s in slices.items()}

    def _open(self) -> None:
        try:
            self._file, self._mapped = safe_open(self.path, "pt"), 0
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path} is not a whole safetensors file ({error}): copy it again") from None

    def get(self, name: str) -> Tensor:
        if self._mapped > MAPPED_AT_ONCE:
            self._open()
        self._mapped += self.header[name].nbytes
        return self._file.get_tensor(name)


class Pickled:
    """A .bin, .ckpt or .pt file: a pickled dict of tensors, or a dict with that dict under "state_dict"."""

    def __init__(self, path: Path):
        self.path = path
        try:
            allowed = torch.serialization.safe_globals([(Ignored, name) for name in IGNORED_CLASSES])
            with allowed, warnings.catch_warnings():
                warnings.simplefilter("ignore")     # warnings about old formats
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            wanted = re.search(r"GLOBAL (\S+)|class (\S+)", str(error))
            if wanted is None:
                raise ValueError(f"{path} is not a whole PyTorch file: copy it again") from None
            raise ValueError(f"{path} can't be read without {wanted[1] or wanted[2]}, which could run code, so it is "
                             "refused: look for a .safetensors file of the same weights") from None
        except Exception as error:      # a damaged one raises almost anything: struct.error, AssertionError, KeyError
            raise ValueError(f"{path} is not a whole PyTorch file ({first_line(error)}): copy it again") from None
        if not isinstance(loaded, dict):
            raise ValueError(f"{path} holds a {type(loaded).__name__} instead of named tensors")
        loaded = {str(name): value for name, value in innermost(loaded).items()}
        self._tensors = {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
        self.metadata: dict[str, str] = {}
        if not self._tensors:
            raise ValueError(f"{path} looks like {foreign(loaded)}; expected named tensors")
        for name, value in self._tensors.items():
            if value.layout != torch.strided or value.is_quantized:
                raise ValueError(f"{path}: {name} is quantised or sparse; expected floats of 16, 32 or 64 bits")
        self.header = {name: value.to("meta") for name, value in self._tensors.items()}

    def get(self, name: str) -> Tensor:
        return self._tensors[name]


def innermost(loaded: dict) -> dict:
    """The dict of tensors in what a training program saved: under "state_dict", or else "model"."""
    for _ in range(4):
        own = any(isinstance(value, Tensor) for value in loaded.values())
        keys = ("state_dict",) if own else ("state_dict", "model", "module", "model_state_dict")
        found = [loaded[key] for key in keys if isinstance(loaded.get(key), dict)]
        if not found:
            break
        loaded = found[0]
    return loaded


class Ignored:
    """Read in place of an object that nothing here needs: it accepts any arguments and any state, and does nothing."""

    def __new__(cls, *_: object) -> "Ignored":
        return super().__new__(cls)

    def __init__(self, *_: object): ...

    def __setstate__(self, _: object) -> None: ...


class Joined:
    """One network whose weights are spread over several files."""

    def __init__(self, parts: list[Weights]):
        self.path, self.metadata = parts[0].path.parent, {}
        self._of: dict[str, Weights] = {}
        for part in parts:
            if twice := sorted(self._of.keys() & part.header.keys()):
                raise ValueError(f"{self._of[twice[0]].path} and {part.path} both hold {twice[0]}, so they are not of "
                                 "the same save: remove the files of the other one")
            self._of |= dict.fromkeys(part.header, part)
        self.header = {name: part.header[name] for name, part in self._of.items()}

    def get(self, name: str) -> Tensor:
        return self._of[name].get(name)


WRAPPED = re.compile(r"(^|\.)(?:_orig_mod|module)\.")     # what torch.compile and parallel training put into names


class Unwrapped:
    """A file whose names are used without what `WRAPPED` finds."""

    def __init__(self, wrapped: Weights):
        self.path, self.metadata, self._wrapped = wrapped.path, wrapped.metadata, wrapped
        self._stored = {WRAPPED.sub(r"\1", name): name for name in wrapped.header}
        if len(self._stored) < len(wrapped.header):
            raise ValueError(f"{self.path} holds tensors twice, under names with and without `module.`")
        self.header = {name: wrapped.header[stored] for name, stored in self._stored.items()}

    def get(self, name: str) -> Tensor:
        return self._wrapped.get(self._stored[name])


def open_weights(paths: Iterable[Path]) -> Weights:
    """The weights in these files; only headers are read. Raises ValueError, in one line that names the file."""
    parts = [open_file(path) for path in paths]
    weights = parts[0] if len(parts) == 1 else Joined(parts)
    return Unwrapped(weights) if any(map(WRAPPED.search, weights.header)) else weights


def open_file(path: Path) -> Weights:
    """One file, opened by its content, not by its name; but a file named .safetensors must be one."""
    kind = file_kind(path)
    if kind == "safetensors":
        return Safetensors(path)
    if kind in ("zip", "pickle") and path.suffix != ".safetensors":
        return Pickled(path)
    found = {"zip": "a PyTorch file, or another zip", "pickle": "a pickle"}.get(kind, kind)
    raise ValueError(f"{path} looks like {found}; expected weights, as .safetensors, .bin or .ckpt")


LONGEST_HEADER = 10**8      # bytes; the limit of safetensors itself

# The first bytes of files -> what they are: formats with weights, and files that are often given by mistake.
SIGNATURES = {
    b"PK\x03\x04": "zip", b"\x80": "pickle", b"GGUF": "a GGUF file, of quantised weights for other programs",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: get it with the hf tool or `git lfs pull`",
    b"<!DOCTYPE": "a web page: the download failed", b"<html": "a web page: the download failed",
    b"\x89PNG": "a picture", b"\xff\xd8\xff": "a picture", b"\x1f\x8b": "a gzip archive: unpack it",
    b"\x89HDF": "an HDF5 file, of Keras",
}


def file_kind(path: Path) -> str:
    """"safetensors", "zip" or "pickle"; for any other file, a description of it."""
    try:
        with open(path, "rb") as file:
            start = file.read(32)
    except OSError as error:
        raise ValueError(f"{path} can't be opened ({error.strerror}): check its permissions") from None
    if not start:
        return "an empty file"
    # safetensors: 8 bytes with the header's length, then the header, which is JSON. Tested before the signatures,
    # because the first byte of that length can be that of a pickle.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < LONGEST_HEADER:
        return "safetensors"
    if path.suffix == ".safetensors" and start[8:9] in (b"{", b""):     # damaged or cut off
        return "safetensors"
    for signature, kind in SIGNATURES.items():
        if start.lstrip().lower().startswith(signature.lower()):
            return kind
    return f"nothing known (it begins with {start[:16]!r})"


def check_finite(weight: Tensor, where: str) -> None:
    """Raises ValueError that names the weight (`where`) if any number is NaN or infinite."""
    if not finite(weight):
        raise ValueError(f"{where} holds NaN or infinite numbers: the file is damaged")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if there is no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# ---------------------------------------------------------------- foreign weights

# Other things that are published as files of tensors: a pattern for one of their names -> what they are. A file with
# such a name is not read, whatever else it holds.
FOREIGN = {
    r"lora_(up|down|A|B|magnitude)|[._]lora[._]|lora_linear_layer|^(lora|oft)_(unet|te)|hada_w[12]|lokr_w[12]"
    r"|_custom_diffusion\.": "a LoRA, changes to a model's weights, which is out of scope here",
    r"^ip_adapter\.|^image_proj\.|to_k_ip\.": "an IP-Adapter, which is out of scope here",
    r"^control_model\.|controlnet_|zero_convs": "a ControlNet, which is out of scope here",
    r"^(string_to_param|emb_params|clip_[lg]|<.*>)": "a textual inversion, a word's embedding, out of scope here",
    r"double_blocks\.|joint_blocks\.|transformer_blocks\.\d+\.attn\.": "a diffusion transformer (FLUX, SD 3)",
    r"^(model\.)?(layers|h|transformer\.h)\.\d+\.(self_attn|attn|mlp)|^lm_head": "a language model",
    r"^visual\.|^vision_model\.": "a CLIP image encoder",
    r"^depth_model\.": "SD 2's depth model, whose U-Net also takes a depth map",
    r"^low_scale_model\.": "SD's upscaler, which takes a small picture",
    r"^cc_projection\.": "Zero123, which takes a picture and a camera's position",
    r"^embedder\.model\.|^noise_augmentor\.": "SD 2.1 unCLIP, which takes a picture's embedding",
    r"\.time_stack\.|\.time_mixer\.|motion_modules\.|\.temporal_transformer\.": "a model of videos",
    r"\.fuser\.|^position_net\.": "GLIGEN, which takes boxes",
    r"\.cond_proj\.": "a latent consistency model (LCM) whose U-Net takes the guidance scale, which is not supported",
    r"\.(absmax|quant_map|weight_scale|scale_weight)$|\.quant_state\.": "quantised weights: get them in 16 or 32 bits",
}
# Parts of what is read.
PARTS_ALONE = {
    r"^model\.diffusion_model\.(?!(input_blocks|middle_block|output_blocks|time_embed|label_emb|out|model)\.)":
        "a model whose network is not Stable Diffusion's U-Net (as Cascade's, Lumina's, AuraFlow's)",
    r"^(unet|vae|text_encoder)\.": "the networks of a folder in one file: give the folder",
    r"^(down_blocks|mid_block)\.": "a U-Net alone, of a checkpoint folder: give the folder",
    r"^(encoder|decoder)\.(down|up|mid|conv)": "a VAE alone: give a whole checkpoint",
    r"^(text_model\.)?encoder\.layers\.0\.self_attn": "a text encoder alone: give a whole checkpoint",
    r"^conditioner\.embedders\.0\.model\.": "SD XL's refiner, which has no first text encoder: give the base model",
    r"^model\.diffusion_model\.": "a U-Net alone, without VAE and text encoder: give a whole checkpoint",
    r"^(input_blocks|middle_block)\.": "a U-Net alone, in the original names: give a whole checkpoint",
    r"^model_ema\.": "the averaged copy of a U-Net (model_ema.) without the U-Net itself: give a whole checkpoint",
    r"^first_stage_model\.|^cond_stage_model\.": "a checkpoint without its U-Net: give a whole checkpoint",
}


def foreign(names: Iterable[str]) -> str:
    """What a file with these tensor names is, if it is not a whole Stable Diffusion checkpoint."""
    names = list(names)
    if found := kind_of(names, FOREIGN | PARTS_ALONE):
        return found
    return f"nothing known (its first names are {', '.join(names[:3])})" if names else "a file without tensors"


def kind_of(names: Iterable[str], kinds: Mapping[str, str]) -> str | None:
    """The first of `kinds` (a pattern -> what has such a name) that one of the names matches."""
    text = "\n".join(names)
    return next((what for pattern, what in kinds.items() if re.search(pattern, text, re.MULTILINE)), None)
