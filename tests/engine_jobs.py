"""What the jobs of the engines' tests do in place of a training: `act` does what the first word of a job says."""

import os
import signal
import sys
import time
from pathlib import Path


def act(words: list[str]) -> int:
    """Do what the first word says; return the exit code."""
    folder = Path(words[words.index("--out_dir") + 1])
    return ACTIONS[words[0]](folder, words)


def end(folder, words):
    return int(words[1])


def say(folder, words):
    print("said")
    print("error: --lr: got 7, allowed: less", file=sys.stderr)
    print("a last line", file=sys.stderr)
    return 2


def break_down(folder, words):
    raise RuntimeError("broken\nin two lines")


def kill_itself(folder, words):
    os.kill(os.getpid(), signal.SIGKILL)


def first_time(folder) -> bool:
    """Whether this is the first attempt in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "mark"
    seen = mark.exists()
    mark.touch()
    return not seen


def kill_itself_once(folder, words):
    return kill_itself(folder, words) if first_time(folder) else 0


def lack_memory_once(folder, words):
    if not first_time(folder):
        return 0
    print("error: out of memory; lower --batch_size", file=sys.stderr)
    return 1


def wait(folder, words):
    """Wait until it is interrupted, and leave a note, as a training saves its state."""
    folder.mkdir(parents=True, exist_ok=True)
    print("waiting")
    (folder / "begun").write_text(str(os.getpid()))
    try:
        time.sleep(1000)
    except KeyboardInterrupt:
        (folder / "saved").touch()
        return 130


def refuse_to_stop(folder, words):
    folder.parent.mkdir(parents=True, exist_ok=True)
    (folder.parent / "stubborn").touch()
    while True:
        try:
            time.sleep(1000)
        except KeyboardInterrupt:
            continue


def tell(folder, words):
    """Write what the process sees of its surroundings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "seen").write_text(f"{os.getcwd()}\n{os.environ['OMP_NUM_THREADS']}\n{os.environ.get('SEEN', '')}\n")
    (folder / "words").write_text(" ".join(words))
    return 0


ACTIONS = {f.__name__: f for f in (end, say, break_down, kill_itself, kill_itself_once, lack_memory_once, wait)}
ACTIONS |= {f.__name__: f for f in (refuse_to_stop, tell)}
