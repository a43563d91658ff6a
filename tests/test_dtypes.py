"""pytest tests/test_dtypes.py: the study of what rounding changes, on the embedded model with few steps."""

import dataclasses
import math

import numpy as np
import pytest

import diffedit_min as dm
from diffedit_min.bench import dtypes
from diffedit_min.bench.datasets.item import Location
from diffedit_min.bench.datasets.scenes import read
from diffedit_min.pictures.picture import psnr

pytestmark = pytest.mark.slow

FEW = {"steps": 6, "mask_samples": 2}


@pytest.fixture(scope="module")
def dataset():
    found = read(Location(None, None, None))
    return dataclasses.replace(found, items=found.items[:2])


def quick(dtype):
    model = dm.load("tiny", device="cpu", dtype=dtype)
    defaults = {**model.defaults, "diffedit": {**model.defaults["diffedit"], **FEW}, "invert": {"steps": 6}}
    return dataclasses.replace(model, defaults=defaults)


@pytest.fixture(scope="module")
def models():
    return {dtype: quick(dtype) for dtype in ("float32", "bfloat16")}


@pytest.fixture(scope="module")
def found(models, dataset):
    return dtypes.measure_batch(models, dataset.items)


def test_float32_is_what_the_others_are_held_against(found):
    assert found["float32"]["rounding"] == [0, 0] and found["float32"]["mask"] == [1, 1]
    assert 0 < np.mean(found["bfloat16"]["rounding"]) and 0.5 < np.mean(found["bfloat16"]["mask"]) <= 1


def test_rounding_changes_less_than_the_steps_do(found):
    """What dtype "auto" stands on; README has it with 50 steps on more pictures."""
    assert np.mean(found["bfloat16"]["rounding"]) < np.mean(found[dtypes.THE_METHODS]["rounding"])


def test_round_trips_are_against_the_input(found, models, dataset):
    for i, item in enumerate(dataset.items):
        again = psnr(dm.invert(models["float32"], item.image()).image, item.image())  # alone; in `found`, in a batch
        assert -10 * math.log10(found["float32"]["round trip"][i]) == pytest.approx(again, abs=0.01)


def test_the_table_averages_errors_before_decibel():
    one = {"round trip": [0.01, 0.03], "rounding": [0.0, 0.0], "mask": [1.0, 1.0], "correct": [1.0, 0.0],
           "answer": [0.1, 0.1], "seconds": [2.0, 2.0]}
    entries = [{dtypes.THE_METHODS: {"rounding": [0.001] * 2, "mask": [0.5, 1.0]}, "float32": one}] * 2
    head, float32, own = dtypes.table(entries)
    assert head[0] == "dtype" and float32 == ["float32", "17.0", "equal", "1", "0.5", "10.0", "2"]
    assert own == [dtypes.THE_METHODS, "", "30.0", "0.75", "", "", ""]


def test_a_run_goes_on_from_what_is_there(models, dataset, tmp_path, monkeypatch):
    class Models:
        def of(self, dtype):
            return lambda variant: models[dtype]

    monkeypatch.setattr(dtypes, "DTYPES", ("float32", "bfloat16"))
    monkeypatch.setattr(dtypes, "BATCH", 1)
    calls, measure_batch = [], dtypes.measure_batch
    monkeypatch.setattr(dtypes, "measure_batch", lambda *a: calls.append(1) or measure_batch(*a))
    dtypes.main(Models(), dataset, tmp_path, 1, True)
    assert len(calls) == 1
    told = dtypes.main(Models(), dataset, tmp_path, 2, True)
    assert len(calls) == 2 and dtypes.main(Models(), dataset, tmp_path, 2, True) == told and len(calls) == 2
    assert (tmp_path / "dtypes.md").read_text().splitlines()[0] == told[0]
    assert (tmp_path / "dtypes.csv").read_text().startswith("dtype,")
