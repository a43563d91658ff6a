"""Instructions for the embedded scenes: what to say so that one attribute changes.

The tokenizer knows their words; the embedded text encoder has never seen most of them and isn't trained for them: a
U-Net that follows instructions learns what they mean (`train_instruct`).
"""

from .scene import Contents, with_article

# The first of each kind is how tests and examples say it.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "container": ("put them in {a new}", "replace the {old} with {a new}", "turn the {old} into {a new}",
                  "swap the {old} for {a new}", "change it to {a new}"),
    "fruit": ("replace the {old} with {new}", "turn the {old} into {new}", "swap the {old} for {new}",
              "make them {new}", "fill it with {new}"),
    "surface": ("move it to the {new}", "place it on {a new}", "set it on {a new}", "replace the {old} with {a new}",
                "put it on the {new}"),
}


def instruction(kind: str, before: Contents, after: Contents, template: int = 0) -> str:
    """What to say to turn one scene into the other, which differ in the attribute `kind`: "put them in a basket"."""
    old, new = getattr(before, kind), getattr(after, kind)
    return TEMPLATES[kind][template].replace("{old}", old).replace("{a new}", with_article(new)).replace("{new}", new)
