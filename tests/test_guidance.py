"""pytest tests/test_guidance.py: classifier-free guidance, and the eps_fns that count rows."""

import torch

from diffedit_min.core.guidance import Rows, classifier_free_guidance, conditional, guided
from diffedit_min.networks.text import Context


def fake_eps(x, t, context):
    """Depends on every argument, and on which prompt goes with which row."""
    tokens = context if isinstance(context, torch.Tensor) else context.tokens
    x = x.repeat(len(tokens) // len(x), 1, 1, 1)        # a row for each prompt
    return x * 0.5 + 0.01 * t + tokens.mean(dim=(1, 2))[:, None, None, None]


def setup():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    text, empty = (torch.randn(3, 5, 6, dtype=torch.float64) for _ in range(2))
    return x, text, empty


def test_formula():
    uncond, cond = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 5.0])
    assert torch.equal(classifier_free_guidance(uncond, cond, 0), uncond)
    assert torch.equal(classifier_free_guidance(uncond, cond, 1), cond)
    assert torch.equal(classifier_free_guidance(uncond, cond, 7.5), torch.tensor([16.0, 50.5]))


def test_guided_is_the_formula_on_the_two_predictions():
    x, text, empty = setup()
    rows = Rows()
    got = guided(fake_eps, text, empty, 7.5, rows, "decode")(x, 31)
    expected = fake_eps(x, 31, empty) + 7.5 * (fake_eps(x, 31, text) - fake_eps(x, 31, empty))
    assert (got - expected).abs().max() < 1e-12
    assert rows.forward == {"decode": 6} and not rows.backward


def test_scales_one_and_zero_cost_one_row():
    x, text, empty = setup()
    for scale, context in ((1, text), (1.0, text), (0, empty)):
        rows = Rows()
        got = guided(fake_eps, text, empty, scale, rows, "decode")(x, 31)
        assert torch.equal(got, fake_eps(x, 31, context))
        assert rows.forward == {"decode": 3}


def test_every_sample_of_every_call_is_counted_under_what_it_is_for():
    x, text, _ = setup()
    rows = Rows()
    eps_fn = conditional(fake_eps, text, rows, "mask")
    eps_fn(x, 1)
    eps_fn(x, 2)
    guided(fake_eps, text, text, 3.0, rows, "decode")(x, 3)
    assert rows.forward == {"mask": 6, "decode": 6}


def test_contexts_serve_like_plain_tensors():
    x, text, empty = setup()
    plain = guided(fake_eps, text, empty, 3.0, Rows(), "decode")(x, 7)
    wrapped = guided(fake_eps, Context(text), Context(empty), 3.0, Rows(), "decode")(x, 7)
    assert torch.equal(plain, wrapped)
