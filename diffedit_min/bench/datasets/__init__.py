"""What is edited. Each dataset is read from its own files, as they are published; none of them comes with this package
but the first, and nothing is downloaded. Each module says which files, given by `data`, `images` and `split`
(item.Location), and how it reads them.

    scenes      the embedded model's synthetic scenes, whose true edits are known
    imagenet    FlexIT's queries (github.com/facebookresearch/SemanticImageTranslation, MIT) on ImageNet's validation
                pictures (image-net.org, with an account, for research)
    coco        BISON's captions (hexiang-hu.github.io/bison, CC BY-NC 4.0) on COCO's pictures (cocodataset.org:
                captions CC BY 4.0, pictures under Flickr's terms)
    imagen      Imagen's pictures of 360 prompts (imagen.research.google): the paper's authors had consent, others ask
    pie         PIE-Bench, which its authors send to who asks (github.com/cure-lab/PnPInversion has form and terms)
    pairs       pictures and words of your own
"""

from collections.abc import Callable

from . import coco, imagen, imagenet, pairs, pie, scenes
from .item import Dataset, Location

DATASETS: dict[str, Callable[[Location], Dataset]] = {
    "scenes": scenes.read,
    "imagenet": imagenet.read,
    "coco": coco.read,
    "imagen": imagen.read,
    "pie": pie.read,
    "pairs": pairs.read,
}
