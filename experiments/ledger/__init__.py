"""The ledger: claims as data, by what they are about; `experiments.claims` judges them.

CLAIMS are in the order in which they are reported, CONTROLS what the studies of claims rest on.
"""

from experiments.ledger import cost, gradients, memory, translating

_ROOMS = memory, translating, cost, gradients
CLAIMS = tuple(claim for room in _ROOMS for claim in room.CLAIMS)
CONTROLS = tuple(control for room in _ROOMS for control in room.CONTROLS)
