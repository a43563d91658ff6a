"""pytest tests/test_asked.py: an edit as it is asked for is the method's own call, alone and with others."""

from dataclasses import replace

import pytest
import torch

import diffedit_min as dm
from diffedit_min.methods import Asked, edit_together
from diffedit_min.tiny import scenes

OPTIONS = {"steps": 4, "mask_samples": 1}


@pytest.fixture(scope="module")
def picture():
    return scenes.sample(scenes.TEST[1]).render(48)


@pytest.fixture
def asked():
    return Asked(dm.diffedit, "a basket of pears", "a bowl", 3, 32, "fast", OPTIONS)


def test_it_is_the_methods_call(model, picture, asked):
    edit = asked(model, picture, keep="trace")
    plain = dm.diffedit(model, picture, "a basket of pears", "a bowl", seed=3, size=32, preset="fast", **OPTIONS)
    assert edit.settings == plain.settings and edit.image.tobytes() == plain.image.tobytes() and edit.trace
    assert asked.record(model) == plain.settings and asked.settings(model) == plain.options
    steps = asked.iterate(model, picture)
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
    assert end.value.value.image.tobytes() == plain.image.tobytes()


def test_several_together_are_each_as_alone(model, picture, asked):
    several = [asked, replace(asked, query="a hat", seed=4), replace(asked, reference="a plate")]
    assert len({one.kind for one in several}) == 1
    for one, edit in zip(several, edit_together(several, model, [picture] * 3), strict=True):
        alone = one(model, picture)
        assert edit.settings == alone.settings and torch.allclose(edit.mask_map, alone.mask_map, atol=1e-9)


@pytest.mark.parametrize("change", [{"size": 24}, {"preset": "recommended"}, {"options": {}}, {"method": dm.sdedit,
                                    "preset": "recommended", "options": {}}])
def test_what_can_not_go_together_is_of_another_kind(asked, change):
    assert replace(asked, **change).kind != asked.kind


def test_without_levels_it_is_step_1_alone(model, picture, asked):
    edit = asked.without_levels()(model, picture)
    assert edit.rows_for == {"mask": 2} and edit.mask_map.equal(asked(model, picture).mask_map)
    assert asked.options == OPTIONS
    assert Asked(dm.instruct_pix2pix, "a").without_levels().options == {}


@pytest.mark.parametrize(("change", "message"), [
    ({"query": " "}, "the query is empty"), ({"size": 0}, "size is 0"), ({"preset": "slow"}, "diffedit has no preset"),
    ({"options": {"steps": 0}}, "steps must be at least 1"), ({"options": {"stairs": 1}}, "diffedit has no option"),
    ({"method": dm.prompt_to_prompt, "preset": "recommended", "options": {}, "reference": ""}, "needs a reference"),
])
def test_what_a_method_cannot_take_is_refused_at_once(asked, change, message):
    with pytest.raises(ValueError, match=message):
        replace(asked, **change)
