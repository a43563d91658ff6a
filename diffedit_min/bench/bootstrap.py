"""Averages over edits, and differences of two variants' averages, with 95 % bootstrap intervals over items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .metrics.base import Column

RESAMPLES = 1000


@dataclass(frozen=True)
class Value:
    """A column's value of one variant, with its 95 % bootstrap interval over items, where it has one. nan: no value."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    def text(self, digits: int) -> str:
        return self.written(f".{digits}f", "–")

    def signed(self, digits: int) -> str:
        """As a difference is written."""
        return self.written(f"+.{digits}f", " to ")

    def written(self, form: str, between: str) -> str:
        if math.isnan(self.value):
            return "-"
        point, low, high = (f"{number:{form}}" for number in (self.value, self.low, self.high))
        return point if math.isnan(self.low) else f"{point} ({low}{between}{high})"


def average(values: Sequence[float], column: Column) -> Value:
    """Over the edits where it is defined. Mean squared errors are averaged before they are shown in dB."""
    defined = np.array([value for value in values if not math.isnan(value)], float)
    if not len(defined):
        return Value()
    numbers = np.array([defined.mean(), *np.percentile(defined[resamples(len(defined))].mean(axis=1), (2.5, 97.5))])
    if column.average == "psnr":
        numbers = decibels(numbers)[[0, 2, 1]]
    return Value(*map(float, numbers))


def difference(values: Sequence[float], baseline: Sequence[float], column: Column) -> Value:
    """How much larger the average of `values` is than the baseline's, over the items where both are defined.

    It is paired: item i of one is item i of the other, and each resample takes the same items of both, so that what
    makes an item hard for both cancels out. Averages are those of `average`: in dB, of the mean squared errors.
    """
    both = np.array([values, baseline], float)                                          # (2, items)
    both = both[:, ~np.isnan(both).any(axis=0)]
    count = both.shape[1]
    if not count:
        return Value()
    means = np.column_stack([both.mean(axis=1), both[:, resamples(count)].mean(axis=2)])        # (2, 1 + RESAMPLES)
    one, other = decibels(means) if column.average == "psnr" else means
    with np.errstate(invalid="ignore"):         # where there is no error in either, they are equal too
        differences = np.where(one == other, 0.0, one - other)
        return Value(*map(float, (differences[0], *np.percentile(differences[1:], (2.5, 97.5)))))


def resamples(count: int) -> np.ndarray:
    """Which of so many items each resample takes, (RESAMPLES, count): always the same ones."""
    return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))


def decibels(errors: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):          # no error at all is infinitely many dB
        return -10 * np.log10(errors)
