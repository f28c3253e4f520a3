"""What a user's task file imports: the contract (dataset/task.py) and `option`, which makes a field a flag.

from dataset.base import Example, Task
"""

from dataset.task import Example, LengthConfig, Slice, Task
from src.flags.fields import UserError, option

__all__ = ["Example", "LengthConfig", "Slice", "Task", "UserError", "option"]
