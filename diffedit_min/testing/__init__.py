"""A kit for testing samplers and methods: checks of their whole contracts, figures, networks with a known answer.

    import diffedit_min.testing as kit

    kit.check_sampler(my_sampler)               # silent, or an AssertionError that names each broken clause
    kit.check_method(my_method)
    kit.roundtrip_error("edict")                # how far encode, then decode ends from where it began: 1e-15
    kit.order_of_convergence("ddim")            # 0.95: of first order

A sampler is an object with `encode` and `decode` (core/state.py), a method what `dm.Method` makes of a `run`
(core/task.py).
"""

from .checks import CLAUSES, check_sampler
from .kit import (
    LEVELS,
    TINY_UNET,
    Order,
    fitted_order,
    gaussian_eps,
    gaussian_solution,
    order_of_convergence,
    points_eps,
    random_eps_fn,
    random_latent,
    roundtrip_error,
    table,
)
from .method_checks import METHOD_CLAUSES, check_method

__all__ = [
    "CLAUSES", "LEVELS", "METHOD_CLAUSES", "TINY_UNET", "Order", "check_method", "check_sampler", "fitted_order",
    "gaussian_eps", "gaussian_solution", "order_of_convergence", "points_eps", "random_eps_fn", "random_latent",
    "roundtrip_error", "table",
]
