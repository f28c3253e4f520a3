"""Fourier mix: continue a sum of sinusoids from its quantised samples.

    'B5226DKRUVRKC51039GOTUSMF83139GOTVTOH93015CKQUTPIB5126CKRVVRLD61>' -> '039GNSURMF82138G'
    'PMJFC96310001257BEHLORTUVVVUSPMJGC96310001247AEHKOQTUVVVUSPNJGC9>' -> '6420000247ADHKNQ'

Why: forecasting a signal that cannot be copied. The frequencies are real numbers without a common period, so the model
must estimate them.

Alphabet: the first `--levels` characters of `0-9A-V`, and `>`.
Length: none. The prompt is `--n_in` samples and `>`. The answer is the next `--n_out` samples.
Signal: the number of waves K is uniform in 1..`--n_waves`. Frequencies are uniform in 0.5..`--max_freq` cycles per 64
    samples, and phases over the circle. Amplitudes are uniform over those that sum to 1, so the signal lies in [-1, 1].
    That range is cut into `--levels` equal steps.
Scored: `within_1_level` (primary: the share of the samples that are at most one level off) and these metrics:
    mae_levels       mean absolute error in levels
    nrmse            root mean square error of the level centres against the unquantised signal, divided by the root
                     mean square of the whole signal (a forecast of 0 gives about 1)
    spectral_error   distance between the amplitude spectra (discrete Fourier transform) of the forecast and of the
                     unquantised signal, relative to the norm of the latter
    token_acc        from the teacher-forced pass
    A sample that is missing, or is no level, counts as the level furthest from the expected one. Samples after the last
    expected one are ignored.
Splits: the key is the prompt.
Chance: uniform (1/34 per character, <eos> included), unigram, and `constant`: the level that is near the most training
    samples.
Baselines: the last sample repeated; linear prediction, fitted by least squares to each prompt alone. Linear prediction
    is strong here, because a sum of sinusoids obeys such a recursion exactly, apart from quantisation.
Ceiling: amplitude and phase fitted by least squares at the true frequencies, which only the generator knows. It is
    measured. It is below 100 % because the prompt is quantised, and it is not a proven bound.
`solve` is the linear prediction, not an oracle.
First used by: this project, as far as we know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataset.entry import loaders_of
from dataset.task import Example, MetaValue, Slice, Task, option

LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
PERIOD = 64  # frequencies are in cycles per so many samples
LOWEST = 0.5


@dataclass(frozen=True)
class FourierMixConfig:
    """fourier_mix"""

    n_waves: int = option(3, "most sinusoids in a signal", least=1, most=16)
    max_freq: float = option(8.0, "highest frequency, in cycles per 64 samples", least=LOWEST, most=32.0)
    n_in: int = option(64, "samples in the prompt", least=8)
    levels: int = option(32, "quantisation levels", least=2, most=len(LEVELS))
    n_out: int = option(16, "samples to forecast", least=1)


class FourierMix(Task):
    """Samples and `>` -> the next samples.

    meta: waves (K), frequencies (cycles per 64 samples), signal (the unquantised answer), rms (of the whole signal).
    """

    Config = FourierMixConfig
    primary = "within_1_level"
    score_metrics: ClassVar[dict[str, str]] = {
        "within_1_level": "higher",
        "mae_levels": "lower",
        "nrmse": "lower",
        "spectral_error": "lower",
    }
    slices = (
        Slice("waves", "number of sinusoids"),
        Slice("position", "horizon (samples ahead, the first is 0)", level="char"),
    )
    small: ClassVar[dict] = {"d_model": 128, "max_steps": 800, "batch_chars": 8192, "val_size": 500, "test_size": 1000}

    @property
    def alphabet(self) -> str:
        return "".join(sorted(LEVELS[: self.args.levels] + ">"))

    def examples(self, rng: np.random.Generator, n: int, length: int | None = None) -> list[Example]:
        most, n_in = self.args.n_waves, self.args.n_in
        waves = rng.integers(1, most + 1, size=n)
        frequency = rng.uniform(LOWEST, self.args.max_freq, size=(n, most))
        phase = rng.uniform(0, 2 * np.pi, size=(n, most))
        amplitude = rng.exponential(size=(n, most)) * (np.arange(most) < waves[:, None])
        amplitude /= amplitude.sum(axis=1, keepdims=True)  # exponentials over their sum are uniform on the simplex
        time = np.arange(n_in + self.args.n_out) * (2 * np.pi / PERIOD)
        signal = sum(
            amplitude[:, k, None] * np.sin(frequency[:, k, None] * time + phase[:, k, None]) for k in range(most)
        )
        rms = np.sqrt((signal**2).mean(axis=1)).tolist()
        texts = self.write(signal)
        return [
            Example(
                text[:n_in] + ">",
                text[n_in:],
                meta={"waves": k, "frequencies": tuple(f[:k]), "signal": tuple(future), "rms": r},
            )
            for text, k, f, future, r in zip(
                texts, waves.tolist(), frequency.tolist(), signal[:, n_in:].tolist(), rms, strict=True
            )
        ]

    def quantise(self, signal: np.ndarray) -> np.ndarray:
        """Values in [-1, 1] -> levels 0 .. levels - 1. Values outside go to the nearest level."""
        levels = self.args.levels
        return np.clip(np.floor((signal + 1) / 2 * levels), 0, levels - 1).astype(np.int64)

    def centres(self, levels: np.ndarray) -> np.ndarray:
        """Levels -> the values in the middle of their steps."""
        return (np.asarray(levels) + 0.5) * (2 / self.args.levels) - 1

    def write(self, signal: np.ndarray) -> list[str]:
        """Values (n, T) -> n texts of T characters."""
        codes = np.frombuffer(LEVELS.encode(), dtype=np.uint8)[self.quantise(signal)]
        text = codes.tobytes().decode()
        width = signal.shape[1]
        return [text[i * width : (i + 1) * width] for i in range(len(signal))]

    def solve(self, prompt: str) -> str:
        """The linear prediction: the best that we know without the true frequencies, but not an oracle."""
        return self.write(self._linear_prediction([prompt]))[0]

    def max_chars(self, length: int | None = None) -> int:
        return self.args.n_in + 1 + self.args.n_out

    def score(self, prompt: str, answer: str, gold: str, meta: dict[str, MetaValue]) -> dict[str, float]:
        levels = self.args.levels
        expected = np.array([LEVELS.index(c) for c in gold])
        furthest = np.where(expected * 2 >= levels - 1, 0, levels - 1)
        got = np.array([LEVELS.find(c, 0, levels) for c in answer[: len(gold)].ljust(len(gold))])
        got = np.where(got < 0, furthest, got)
        error = np.abs(got - expected)
        signal, forecast = np.array(meta["signal"]), self.centres(got)
        spectrum, found = np.abs(np.fft.rfft(signal)), np.abs(np.fft.rfft(forecast))
        least = 1 / levels  # half a step: where waves cancel, the rounding error must not become a large ratio
        rmse = np.sqrt(((forecast - signal) ** 2).mean())
        return {
            "within_1_level": float((error <= 1).mean()),
            "mae_levels": float(error.mean()),
            "nrmse": float(rmse / max(meta["rms"], least)),
            "spectral_error": float(np.linalg.norm(found - spectrum) / max(np.linalg.norm(spectrum), least)),
        }

    def constants(self, train: list[Example]) -> list[str]:
        """The level that is at most one off from the most training samples, at all places: they are alike."""
        samples = np.frombuffer("".join(e.answer for e in train).encode(), dtype=np.uint8)
        counts = np.array([np.count_nonzero(samples == ord(c)) for c in LEVELS[: self.args.levels]])
        near = np.convolve(counts, np.ones(3, dtype=np.int64), mode="same")
        return [LEVELS[int(near.argmax())] * self.args.n_out]

    def baselines(self, train: list[Example], test: list[Example]) -> dict[str, float]:
        """within_1_level of the last sample repeated, and of linear prediction. Both see one test prompt at a time."""
        prompts = [e.prompt for e in test]
        last = self._read(prompts)[:, -1:].repeat(self.args.n_out, axis=1)
        return {
            "last_sample": self._within(last, test),
            "linear_prediction": self._within(self._linear_prediction(prompts), test),
        }

    def ceiling(self, test: list[Example]) -> float:
        """within_1_level of sinusoids at the true frequencies, their amplitude and phase fitted to each prompt."""
        values = self._read([e.prompt for e in test])
        forecast = np.zeros((len(test), self.args.n_out))
        time = np.arange(self.args.n_in + self.args.n_out) * (2 * np.pi / PERIOD)
        for waves in sorted({e.meta["waves"] for e in test}):
            rows = [i for i, e in enumerate(test) if e.meta["waves"] == waves]
            angle = np.array([test[i].meta["frequencies"] for i in rows])[:, None, :] * time[:, None]  # (n, T, K)
            basis = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
            past, future = basis[:, : self.args.n_in], basis[:, self.args.n_in :]
            # rcond: without it, nearly equal frequencies would get huge weights of opposite signs.
            weights = np.linalg.pinv(past, rcond=1e-3) @ values[rows, :, None]
            forecast[rows] = (future @ weights)[..., 0]
        return self._within(forecast, test)

    def _read(self, prompts: list[str]) -> np.ndarray:
        """Prompts -> the centres of their levels (n, n_in)."""
        samples = "".join(p[:-1] for p in prompts).encode()
        codes = np.frombuffer(samples, dtype=np.uint8).reshape(len(prompts), self.args.n_in)
        table = np.zeros(256, dtype=np.int64)
        table[list(LEVELS.encode())] = np.arange(len(LEVELS))
        return self.centres(table[codes])

    def _linear_prediction(self, prompts: list[str]) -> np.ndarray:
        """Forecast (n, n_out) from the last `order` samples, fitted to the prompt read forwards and backwards."""
        values = self._read(prompts)
        order = self.args.n_in * 5 // 8  # long, to average out the quantisation noise; 3/8 of the prompt is left to fit
        runs = np.lib.stride_tricks.sliding_window_view(values, order + 1, axis=1)  # (n, n_in - order, order + 1)
        runs = np.concatenate([runs, runs[..., ::-1]], axis=1)  # a sinusoid read backwards obeys the same recursion
        past, following = runs[..., :-1], runs[..., -1:]
        # The ridge is of the size of the quantisation noise, (2 / levels)^2 / 12 per sample.
        ridge = 0.3 * past.shape[1] / self.args.levels**2 * np.eye(order)
        weights = np.linalg.solve(past.swapaxes(1, 2) @ past + ridge, past.swapaxes(1, 2) @ following)[..., 0]
        for _ in range(self.args.n_out):
            values = np.concatenate([values, (values[:, -order:] * weights).sum(axis=1, keepdims=True)], axis=1)
        return np.clip(values[:, self.args.n_in :], -1, 1)

    def _within(self, forecast: np.ndarray, test: list[Example]) -> float:
        """The share of forecast values (n, n_out) that are at most one level off."""
        """The share of forecast values (n, n_out) that are at most one level off."""
        expected = np.array([[LEVELS.index(c) for c in e.answer] for e in test])
        return float((np.abs(self.quantise(forecast) - expected) <= 1).mean())


build_loaders = loaders_of(FourierMix)
