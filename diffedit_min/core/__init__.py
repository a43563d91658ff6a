"""The paper: everything that DiffEdit (arXiv:2210.11427) is made of. This folder imports nothing from the other ones.

    diffedit.py     the algorithm, read from top to bottom
    schedule.py     noise levels; x0, eps and v; the ODE's variables
    ddim.py         one step, in both directions: Eq. (2)
    guidance.py     what a noise prediction is; classifier-free guidance
    mask.py         noise differences -> map -> mask: step 1

These five need a few things that they share with the samplers and the methods:

    betas.py        what a checkpoint says of its noise levels
    state.py        what a sampler is
    options.py      how an option is declared
    task.py         what a method is given, and what it returns
    coding.py       encoding and decoding, E_r and D_r, as methods call them
    reuse.py        when an earlier encoding or map may be used again

theory.py is Proposition 1.
"""

__version__ = "0.4.0"
