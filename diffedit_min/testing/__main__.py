"""`python -m diffedit_min.testing`: the table of the samplers here."""

from .kit import table

print("\n".join(table()))
