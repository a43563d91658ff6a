"""Run: python -m pytest tests/test_notebook.py

Pictures, charts and sliders for notebooks (studio/notebook.py).
"""

import re
import tempfile
from html import unescape

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image
from traitlets.config import Config

from diffedit_min.studio.notebook import Html, chart, show, slider, watched

RED, BLUE = (Image.new("RGB", (8, 4), colour) for colour in ("red", "blue"))


def alts(shown: Html) -> list[str]:
    return [unescape(alt) for alt in re.findall(r'<img [^>]*alt="([^"]*)"', shown._repr_html_())]


def test_pictures_stand_side_by_side_with_captions_and_words():
    shown = show([RED, BLUE], ["a < b", "c"], ['a "red" field', "a blue one"], width=100)
    assert alts(shown) == ['a "red" field', "a blue one"] and repr(shown) == "a < b; c"
    assert shown.html.count("<figcaption") == 2 and "a &lt; b</figcaption>" in shown.html
    assert shown.html.count('width="100"') == 2


def test_captions_are_the_words_where_no_others_are_given():
    assert alts(show([RED], ["red"])) == ["red"]


@pytest.mark.parametrize("given", [([RED], ["a", "b"]), ([RED], ["a"], [])])
def test_each_picture_has_its_own_caption_and_words(given):
    with pytest.raises(ValueError):
        show(*given)


def test_a_chart_is_a_picture_of_the_current_figure_and_closes_it():
    from matplotlib import pyplot

    pyplot.figure(figsize=(2, 1), dpi=50)
    pyplot.plot([0, 1], [1, 0])
    shown = chart('falls from "1" to 0')
    assert alts(shown) == ['falls from "1" to 0'] and 'width="100"' in shown.html and not pyplot.get_fignums()


def field(value: int) -> Html:
    return show([Image.new("L", (4, 4), value)], [f"grey {value}"])


def test_where_nobody_can_move_a_slider_a_few_values_are_drawn():
    assert not watched()        # no kernel here
    shown = slider(field, range(10), few=(2, 5, 7), label="grey")
    assert repr(shown) == "grey 2; grey 5; grey 7" and alts(shown) == ["grey 2", "grey 5", "grey 7"]
    assert alts(slider(field, range(10), few=(2, 5), label="grey", beside=field(9))) == ["grey 2", "grey 5", "grey 9"]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_slider_draws_for_the_value_that_it_is_moved_to(at_once):
    box = slider(field, range(10), few=(2, 5, 7), label="grey", beside=field(0), at_once=at_once, live=True)
    chosen, below = box.children
    assert chosen.value == 5 and chosen.description == "grey" and chosen.continuous_update is at_once
    assert below.value == field(5).html + field(0).html
    chosen.value = 9
    assert below.value == field(9).html + field(0).html


@pytest.mark.slow
@pytest.mark.parametrize("somebody", [False, True])
def test_somebody_is_there_where_a_cell_may_ask_for_input(somebody):
    cell = nbformat.v4.new_code_cell("from diffedit_min.studio.notebook import watched\nprint(watched())")
    with tempfile.TemporaryDirectory() as sockets:      # messages go through a folder, not through the network
        config = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"})
        client = NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name="python3", config=config)
        with client.setup_kernel():
            client.kc.allow_stdin = somebody
            client.execute_cell(cell, 0)
    assert cell.outputs[0].text == f"{somebody}\n"
