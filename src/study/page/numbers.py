"""Numbers as text: as many digits as their uncertainty allows, at most three significant ones without it, and units.

score(0.98123, 0.962, 0.994)     -> "0.981 [0.962, 0.994]"
quantity(0.01234, "s")           -> "0.0123 s"
bytes_of(3400)                   -> "3.32 KiB"
"""

from __future__ import annotations

import math

MISSING = "–"
NO_BREAK = "\u00a0"  # between a number and its unit, which a line break must not part
FEWEST, USUAL, MOST = 2, 3, 4  # decimals of a share


def decimals(low: float | None, high: float | None) -> int:
    """Decimals of a share: three; two where its interval is wide, four where three would show no width."""
    half = 0.0 if low is None or high is None else (high - low) / 2
    if not half > 0:
        return USUAL
    place = -math.floor(math.log10(half))
    return min(MOST, max(FEWEST, min(USUAL, 1 + place), place))


def share(value: float | None, places: int = 3) -> str:
    """A share with a fixed number of decimals, never -0.000."""
    if value is None:
        return MISSING
    return plain(value) if abs(value) >= 1000 else f"{round(value, places) + 0.0:.{places}f}"


def score(value: float | None, low: float | None, high: float | None) -> str:
    """A score with its interval."""
    places = decimals(low, high)
    if value is None or low is None or high is None:
        return share(value)
    return f"{share(value, places)} {interval(low, high, places)}"


def interval(low: float | None, high: float | None, places: int | None = None) -> str:
    """'[0.962, 0.994]'."""
    if low is None or high is None:
        return MISSING
    places = decimals(low, high) if places is None else places
    return f"[{share(low, places)}, {share(high, places)}]"


def difference(value: float | None, low: float | None, high: float | None) -> str:
    """'+0.190 [+0.150, +0.230]': the signs tell the direction."""
    if value is None:
        return MISSING
    places = decimals(low, high)
    if low is None or high is None:
        return signed(value, places)
    return f"{signed(value, places)} [{signed(low, places)}, {signed(high, places)}]"


def signed(value: float, places: int = 3) -> str:
    rounded = round(value, places) + 0.0
    return f"{rounded:+.{places}f}" if abs(rounded) < 1000 else f"{rounded:+.3g}"


def plain(value: float | None) -> str:
    """Three significant digits: 0.0123, 12.3, 12,300, 1.2e+09."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e7 or size < 1e-4:
        return f"{value:.3g}"
    places = 2 - math.floor(math.log10(float(f"{size:.3g}")))
    return f"{round(value, places):,.{max(0, places)}f}"


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit."""
    return MISSING if value is None else f"{plain(value)}{NO_BREAK}{unit}"


def whole(value: int | None) -> str:
    """12,345; three digits with an exponent above a million million."""
    if value is None:
        return MISSING
    return f"{value:,}" if abs(value) < 10**12 else f"{value:.3g}"


def bytes_of(value: float | None) -> str:
    """Bytes with a binary unit."""
    if value is None:
        return MISSING
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{plain(value / size)}{NO_BREAK}{unit}"
    return f"{plain(value)}{NO_BREAK}B"


def probability(value: float | None) -> str:
    """'0.012', or '< 0.001'."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def listed(words, most: int = 4) -> str:
    """'a, b and c'; 'a, b, c and 5 others' where there are many."""
    words = list(words)
    if len(words) > most:
        return f"{', '.join(words[: most - 1])} and {len(words) - most + 1} others"
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def counted(n: int, noun: str, plural: str = "") -> str:
    """'1 run', '3 runs'."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
