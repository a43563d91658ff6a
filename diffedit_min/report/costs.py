"""How an edit's rows through the U-Net add up."""

from ..methods import Edit


def costs(edit: Edit, T: int) -> dict[str, int]:
    """Rows by what they were for, in the order of the steps; {} if these don't add up to the edit's own count.

    They don't where a sampler makes more or fewer calls than one a step, and where keep="result" has left no states to
    tell the levels by. T: of the model's schedule.
    """
    s = edit.settings
    levels = {state.index: state.level for state in (*edit.encoded, *edit.decoded) if state.index > 0}
    k = len(levels)
    encoding = {"encoding": k if edit.encoded and "encoded" not in s["given"] else 0}
    scale, start, end = s["guidance_scale"], s.get("guidance_from", 0.0), s.get("guidance_until", 1.0)
    decoding = {"decoding": sum(guided(scale) if start <= level.t / T <= end else 1 for level in levels.values())}
    match s["method"]:
        case "diffedit":
            found = not {"mask", "mask_map"} & set(s["given"]) and s["query"] != s["reference"]
            parts = {"mask": 2 * s["mask_samples"] * found} | encoding | decoding
        case "prompt_to_prompt":
            parts = encoding | {"two branches": (2 if scale == 1 else 4) * k}
        case "null_text":
            branches = (2 if scale == 1 else 4) * k
            parts = encoding | {"tuning": edit.rows - encoding["encoding"] - branches, "two branches": branches}
        case "negative_prompt_inversion" | "direct_inversion":
            parts = encoding | {"two branches": (2 if scale == 1 else 3) * k}
        case "cycle_diffusion" | "edit_friendly":
            parts = {"finding the noises": guided(s["source_guidance_scale"]) * k} | decoding
        case "unitune":
            parts = {"tuning": 0 if s["tuned"] else s["tuning_steps"] * s["batch"]} | decoding
        case "instruct_pix2pix":
            parts = {"decoding": (1 if scale == s["image_guidance_scale"] == 1 else 3) * k}
        case _:     # sdedit, encode_decode, invert
            parts = encoding | decoding
    parts = {name: rows for name, rows in parts.items() if rows}
    return parts if sum(parts.values()) == edit.rows else {}


def guided(scale: float) -> int:
    """How many rows a guided prediction takes."""
    return 1 if scale in (0, 1) else 2
