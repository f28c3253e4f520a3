"""What a layer file of your own imports: `from src.models.base import Mixer`.

src/models/contract.py explains what a layer must define, with an example and the legend of the shapes (B, T, D, H, K,
V, N, C). src/models/backbone.py is the model that is built around it.
"""

from src.flags.fields import UserError, option
from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import ARModel, BlockDefaults, Mixer, State
from src.models.parts import at_least_float32
from src.models.state import state_bytes

Form = BlockDefaults  # older names, which layer files in use still import
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
