"""The names of src/flags/fields.py that a user's layer, task or script imports: `from src.config import option`."""

from src.flags.fields import UserError, option
from src.flags.run_flags import resolve

__all__ = ["UserError", "option", "resolve"]
