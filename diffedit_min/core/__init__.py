"""The paper: everything that DiffEdit (arXiv:2210.11427) is made of. This folder imports nothing of the rest.

    diffedit.py     the algorithm, read from top to bottom
    schedule.py     noise levels; x0, eps and v; the ODE's variables
    ddim.py         one step, in both directions: Eq. (2)
    guidance.py     what a noise prediction is; classifier-free guidance
    mask.py         noise differences -> map -> mask: step 1

and the few words that these share: state.py (what a sampler is), options.py (how an option is declared), task.py (what
a method is given and returns), coding.py (E_r and D_r), reuse.py (when an earlier result still holds); theory.py is
Proposition 1.
"""
