"""A hundred kills at random moments: each command is continued and leaves what it leaves without a kill.

python -m pytest -m slow -s -n 0 tests/stress/test_kills.py
"""

import random
import shutil
import sys
import time

import pytest
from stressed import COMMANDS, SIGNALS, finish, gone, one_line, say, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]
KILLS = 17  # per command; six commands


def kill_once(arguments, folder, whole, rng) -> str:
    """Start the command and send it a signal at a random moment. Returns what happened."""
    process = start(arguments)
    if rng.random() < 0.5:  # half of the moments lie after the first file was written
        end = time.monotonic() + whole
        while not folder.exists() and time.monotonic() < end and process.poll() is None:
            time.sleep(0.01)
        whole *= 0.6
    try:
        process.wait(rng.uniform(0, whole))
    except Exception:
        sent = rng.choice(SIGNALS + 3 * SIGNALS[:1])  # half are SIGKILL, which nothing can handle
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
        if sent.name != "SIGKILL":  # a process that was being started when its parent was killed may say so
            one_line(err)
        assert gone(process.pid), f"after {sent.name} processes of the command go on"
        return sent.name
    _, err = process.communicate()
    assert process.returncode == 0, err
    return "ended"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_at_random_moments_leaves_what_it_leaves_without_a_kill(name, tmp_path):
    rng, command = random.Random(f"kills of {name}"), COMMANDS[name]
    plain = tmp_path / "plain"
    command.prepare(plain)
    began = time.monotonic()
    code, _, err = finish(command.arguments(plain))
    whole = time.monotonic() - began
    assert code == 0, err
    wanted = command.left(plain)
    sent, folders = [], 0
    while len(sent) < KILLS:
        folder = tmp_path / f"killed-{folders}"
        command.prepare(folder)
        for _ in range(rng.randint(1, 3)):
            happened = kill_once(command.arguments(folder), folder, whole, rng)
            if happened == "ended":
                break
            sent.append(happened)
        code, _, err = finish(command.arguments(folder))
        assert code == 0, f"after {sent}: {err}"
        assert command.left(folder) == wanted, f"after {sent}"
        assert not list(folder.rglob("*.tmp*")), "a temporary file was left"
        shutil.rmtree(folder)
        folders += 1
    counts = ", ".join(f"{sent.count(s.name)} {s.name}" for s in SIGNALS)
    say(f"{name}: {len(sent)} kills in {folders} folders ({counts}), {whole:.1f} s without a kill: all equal")
