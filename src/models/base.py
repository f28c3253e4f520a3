"""What a user's layer file imports: the contract (src/models/contract.py) and the backbone around it (src/models/backbone.py).

from src.models.base import Mixer
"""

from src.flags.fields import UserError, option
from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import ARModel, BlockDefaults, Mixer, State, state_bytes
from src.models.parts import at_least_float32

Form = BlockDefaults  # the names that layer files written for earlier versions import
wide = at_least_float32

__all__ = [
    "ARModel",
    "Backbone",
    "BlockDefaults",
    "Form",
    "Mixer",
    "State",
    "UserError",
    "at_least_float32",
    "build",
    "max_len_of",
    "option",
    "state_bytes",
    "wide",
]
