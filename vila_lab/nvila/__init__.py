"""The NVILA family as transformers models. Importing it is cheap and makes the Auto classes know the family.

Heavy modules are imported when they are used:

>>> from vila_lab.nvila.checkpoint import load_checkpoint
"""

from vila_lab.nvila.registration import register

register()
