"""A kit for testing samplers: one check of the whole contract, figures, and networks with a known answer.

    import diffedit_min.testing as kit

    kit.check_sampler(my_sampler)               # silent, or an AssertionError that names each broken clause
    kit.roundtrip_error("edict")                # how far encode, then decode ends from where it began: 1e-15
    kit.order_of_convergence("ddim")            # 0.95: of first order

A sampler is an object with `encode` and `decode` (core/state.py).
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

__all__ = [
    "CLAUSES", "LEVELS", "TINY_UNET", "Order", "check_sampler", "fitted_order", "gaussian_eps", "gaussian_solution",
    "order_of_convergence", "points_eps", "random_eps_fn", "random_latent", "roundtrip_error", "table",
]
