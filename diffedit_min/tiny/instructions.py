"""Instructions for the embedded scenes: a sentence that asks for one attribute to be changed.

The tokenizer has a token for each of their words, but the embedded text encoder was not trained on most of them. The
U-Net of the model that follows instructions learns their meaning (`train_instruct`).
"""

from .scene import Contents, with_article

# Tests and examples use the first template of each attribute.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "container": ("put them in {a new}", "replace the {old} with {a new}", "turn the {old} into {a new}",
                  "swap the {old} for {a new}", "change it to {a new}"),
    "fruit": ("replace the {old} with {new}", "turn the {old} into {new}", "swap the {old} for {new}",
              "make them {new}", "fill it with {new}"),
    "surface": ("move it to the {new}", "place it on {a new}", "set it on {a new}", "replace the {old} with {a new}",
                "put it on the {new}"),
}


def instruction(kind: str, before: Contents, after: Contents, template: int = 0) -> str:
    """An instruction that turns the scene `before` into `after`, such as "put them in a basket".

    kind: the attribute in which the two scenes differ. template: which of its TEMPLATES to use.
    """
    old, new = getattr(before, kind), getattr(after, kind)
    return TEMPLATES[kind][template].replace("{old}", old).replace("{a new}", with_article(new)).replace("{new}", new)
