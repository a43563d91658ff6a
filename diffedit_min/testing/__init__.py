from .kit import *
from .kit import LEVELS, table
