"""What is edited. Each dataset is read from its own files, as they are published; none of them comes with this package
but the first, and nothing is downloaded. The files are given by `data`, `images` and `split` (item.Location).

    scenes      the embedded model's synthetic scenes, whose true edits are known. split: validation, test
    imagenet    2184 queries "make it a <near class>" on ImageNet's validation pictures: the protocol of FlexIT and of
                the paper. data: dataset/queries.csv of github.com/facebookresearch/SemanticImageTranslation (MIT);
                images: ILSVRC2012's validation folder (image-net.org, with an account, for research); split: test, dev
    coco        COCO's val2014 pictures and BISON's contradicting captions, as in the paper. data: BISON's annotations
                (hexiang-hu.github.io/bison, CC BY-NC 4.0); images: the folder val2014; and captions_val2014.json, both
                of cocodataset.org (captions CC BY 4.0, pictures under Flickr's terms); split: filtered, all
    imagen      360 prompts of one template and Imagen's pictures of them, as in the paper, which used those of
                imagen.research.google with their authors' consent; others have to ask. images: them, named by their
                prompts
    pie         PIE-Bench: 700 pictures, edits of ten types, with masks. data: mapping_file.json; images:
                annotation_images; both are sent to who asks (github.com/cure-lab/PnPInversion has the form and the
                terms); split: one type
    pairs       pictures and words of your own. data: a CSV or JSONL file
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
