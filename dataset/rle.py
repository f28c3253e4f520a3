"""Run-length encoding: each run of a letter becomes the letter and the length of the run.

    'nxxhhhsssssz>' -> 'n1x2h3s5z1'
    'bfflumyyzuuu>' -> 'b1f2l1u1m1y2z1u3'
    --run_p 1   'vmfynvtw>' -> 'v1m1f1y1n1v1t1w1'

Alphabet: a-z, the counts 1-9 and `>`.
Length: the letters of the prompt. Run lengths are geometric with `--run_p` (the probability that a run ends after each
    letter), cut off above 9. The last run is cut short where the prompt is full. Neighbouring runs have different
    letters, which are uniform otherwise.
Scored: the code and its <eos>.
Chance: uniform (1/37 per character, <eos> included) and unigram. Unigram is well above uniform, because every second
    character is a digit, most often `1`.
First used by: this project, as far as we know.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.strings import LETTERS
from dataset.task import Example, LengthConfig, Slice, Task, option

LONGEST_RUN = 9


class RunLength(Task):
    """`aaabcc>` is followed by `a3b1c2`."""

    @dataclass(frozen=True)
    class Config(LengthConfig):
        """rle"""

        run_p: float = option(
            0.5, "probability that a run ends after each letter; 1 = no letter is repeated", above=0.0, most=1.0
        )

    small: ClassVar[dict] = {"context_len": 12, "d_model": 128, "lr": 1e-3, "max_steps": 2500, "stop_at": 0.99}
    slices = (
        Slice("length", "length of the prompt (characters)"),
        Slice("runs", "number of runs"),
        Slice("longest_run", "longest run (characters)"),
    )

    @property
    def alphabet(self) -> str:
        return LETTERS + ("1" if self.args.run_p == 1 else "123456789") + ">"

    def examples(self, rng: np.random.Generator, n: int, length: int) -> list[Example]:
        block = max(1, 2_000_000 // length)  # limits the memory for long prompts
        return [e for first in range(0, n, block) for e in self._block(rng, min(block, n - first), length)]

    def _block(self, rng, n, length):
        runs = self._run_lengths(rng, n, length)
        # Steps from one run's letter to the next are never 0, so that neighbours differ.
        steps = rng.integers(1, 26, (n, length), dtype=np.uint8)
        steps[:, 0] = rng.integers(0, 26, n)
        letters = (np.cumsum(steps, axis=1, dtype=np.int32) % 26 + 97).astype(np.uint8)
        kept = runs > 0
        text = np.repeat(letters[kept], runs[kept]).tobytes().decode()
        code = np.stack([letters[kept], runs[kept] + 48], axis=1).astype(np.uint8).tobytes().decode()
        counts = kept.sum(axis=1).tolist()
        longest = runs.max(axis=1).tolist()
        made, at = [], 0
        for i in range(n):
            end = at + 2 * counts[i]
            made.append(
                Example(
                    text[i * length : (i + 1) * length] + ">",
                    code[at:end],
                    meta={"runs": counts[i], "longest_run": longest[i]},
                )
            )
            at = end
        return made

    def _run_lengths(self, rng, n, length):
        """(n, length) lengths of the runs in order, which sum to `length`. 0 after the last run."""
        q = 1 - self.args.run_p
        if q == 0:
            return np.ones((n, length), dtype=np.int16)
        # In (q^9, 1], so that no run is longer than 9.
        share = 1 - rng.random((n, length), dtype=np.float32) * np.float32(1 - q**LONGEST_RUN)
        drawn = np.clip(np.ceil(np.log(share) / np.float32(np.log(q))), 1, LONGEST_RUN).astype(np.int16)
        before = np.cumsum(drawn, axis=1, dtype=np.int32) - drawn
        return np.clip(length - before, 0, drawn).astype(np.int16)

    def n_keys(self) -> int | None:
        length = self.lengths[1]
        if length > 8:
            return None
        return 26 * 25 ** (length - 1) if self.args.run_p == 1 else 26**length

    def solve(self, prompt: str) -> str:
        return "".join(f"{letter}{len(list(run))}" for letter, run in groupby(prompt[:-1]))

    def max_chars(self, length: int) -> int:
        return 3 * length + 1


build_loaders = loaders_of(RunLength)
