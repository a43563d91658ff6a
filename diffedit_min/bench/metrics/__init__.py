"""Metrics by families: what can be left out, for want of a network's files, is one family."""

from .base import Metric
from .clip import ClipScoreMetric
from .inception import CsfidMetric, FidMetric
from .lpips import LpipsMetric
from .pictures import AnswersMetric, PicturesMetric, ScenesMetric
from .pie import PieClipMetric, PieLpipsMetric, PiePicturesMetric, PieStructureMetric

FAMILIES: dict[str, type[Metric]] = {
    "scenes": ScenesMetric,
    "pictures": PicturesMetric,
    "answers": AnswersMetric,
    "clipscore": ClipScoreMetric,
    "lpips": LpipsMetric,
    "fid": FidMetric,
    "csfid": CsfidMetric,
    "pie_structure": PieStructureMetric,
    "pie_pictures": PiePicturesMetric,
    "pie_lpips": PieLpipsMetric,
    "pie_clip": PieClipMetric,
}
