"""What published layers are made of, for sentences such as "every layer ahead of it has a short convolution".

One line per trait. The names are labels of the suite `core`: a name and its flags. Of a layer of KNOWN that a trait
does not name, it is known that it has none of it. Nothing is said where another layer is ranked, because a flag may add
or remove a trait.
"""

from __future__ import annotations

KNOWN = frozenset(
    (
        *("transformer", "llama", "linear_attention", "retnet", "gla", "mamba", "mamba2", "lstm", "gru"),
        *("deltanet", "deltanet --neg_eigen", "gated_deltanet", "gated_deltanet --neg_eigen"),
    )
)
TRAITS: dict[str, tuple[str, ...]] = {
    "attention over all earlier positions": ("transformer", "llama"),
    "a short convolution": (
        *("mamba", "mamba2", "deltanet", "deltanet --neg_eigen"),
        *("gated_deltanet", "gated_deltanet --neg_eigen"),
    ),
    "the delta rule, which erases before it writes": (
        *("deltanet", "deltanet --neg_eigen", "gated_deltanet", "gated_deltanet --neg_eigen"),
    ),
    "negative eigenvalues of a linear recurrence": ("deltanet --neg_eigen", "gated_deltanet --neg_eigen"),
    "a nonlinear recurrence": ("lstm", "gru"),
    "negative eigenvalues of a linear recurrence, or a nonlinear recurrence": (
        *("deltanet --neg_eigen", "gated_deltanet --neg_eigen", "lstm", "gru"),
    ),
    "attention or the delta rule": (
        *("transformer", "llama", "deltanet", "deltanet --neg_eigen", "gated_deltanet", "gated_deltanet --neg_eigen"),
    ),
    "a short convolution or attention": (
        *("transformer", "llama", "mamba", "mamba2", "deltanet", "deltanet --neg_eigen"),
        *("gated_deltanet", "gated_deltanet --neg_eigen"),
    ),
    "a linear recurrence with a decay that depends on the input": (
        *("mamba", "mamba2", "gla", "gated_deltanet", "gated_deltanet --neg_eigen"),
    ),
}


def members(trait: str, among: set[str]) -> set[str]:
    """Those of these layers that have the trait. Positions are no part of a layer's name here."""
    return {label for label in among if _without_positions(label) in TRAITS[trait]}


def _without_positions(label: str) -> str:
    """'llama --pos rope' becomes 'llama'."""
    words = label.split()
    at = words.index("--pos") if "--pos" in words else len(words)
    return " ".join(words[:at] + words[at + 2 :])


def shared_by(labels: set[str], among: set[str]) -> str:
    """The narrowest trait that all of these layers have, at ties the first of the table; empty where there is none, or
    where a ranked layer is not of KNOWN.

    among: all layers that are ranked. A trait that most of these have says little, so it must be lacking in some, and
    at least half of those that have it must be among `labels`.
    """
    if not {_without_positions(label) for label in among} <= KNOWN:
        return ""
    found = []
    for trait in TRAITS:
        having = members(trait, among)
        if labels <= having and having < among and len(labels) * 2 >= len(having):
            found.append((len(having), trait))
    return min(found, key=lambda one: one[0])[1] if len(labels) > 1 and found else ""


def is_exact(trait: str, labels: set[str], among: set[str]) -> bool:
    """Whether these are exactly the ranked layers that have the trait."""
    return members(trait, among) == labels
