"""pytest tests/test_held.py: models by name, each loaded once."""

from threading import Thread

import pytest

from diffedit_min.loading.held import Models


class Loads:
    """In place of `load`: remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, name, **how):
        self.asked.append((name, how))
        return object()

    @property
    def names(self):
        return "".join(name for name, _ in self.asked)


@pytest.fixture
def load():
    return Loads()


def test_each_is_loaded_once_with_what_was_said(load):
    models = Models(load=load, device="cpu", dtype="float64", config="here")
    first = models.get("a")
    assert models.get("b") is not models.get("a") is first
    how = {"device": "cpu", "dtype": "float64", "config": "here"}
    assert load.asked == [("a", how), ("b", how)] and models.source == {"config": "here"}


def test_another_dtype_is_another_model(load):
    models = Models(["a"], load=load, device="cpu", revision="main")
    other = models.in_dtype("float16")
    assert other.get("a") is not models.get("a")
    assert [how for _, how in load.asked] == [{"device": "cpu", "dtype": dtype, "revision": "main"}
                                              for dtype in ("float16", "auto")]
    with pytest.raises(ValueError, match="offered"):
        other.get("b")


def test_no_other_name_is_loaded_than_those_given(load):
    with pytest.raises(ValueError, match="^model '/etc' is not one of those offered here: a, b$"):
        Models(("a", "b", "a"), load=load).get("/etc")
    assert not load.asked


def test_of_other_names_only_the_last_is_kept(load):
    models = Models(("a", "b"), any_name=True, load=load)
    for name in "aabbxxyxa":
        models.get(name)
    assert load.names == "abxyx"


def test_two_threads_do_not_load_one_model_twice(load):
    threads = []

    def slow(name, **how):
        if not threads:     # the second asks while the first is loading
            threads.append(Thread(target=models.get, args=(name,)))
            threads[0].start()
            threads[0].join(0.2)
        return load(name, **how)

    models = Models(load=slow)
    models.get("a")
    threads[0].join()
    assert load.names == "a"
