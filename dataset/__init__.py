"""What is to be learned: one task per file. `TASKS` maps a name to a lazy entry; add a line here to add a task."""

from src.registry import Entry

OURS = "this project"

TASKS = {
    "tiny_shakespeare": Entry("dataset.tiny_shakespeare:TinyShakespeare", "model the characters of Tiny Shakespeare", "Karpathy 2015, char-rnn"),
    "needle": Entry("dataset.needle:Needle", "read back the value of a needle hidden in a haystack", "after Kamradt 2023; RULER, Hsieh et al. 2024"),
    "dyck": Entry("dataset.dyck:Dyck", "close the open brackets in the right order", "Suzgun et al. 2019; Hewitt et al. 2020"),
    "addition": Entry("dataset.addition:Addition", "add two decimal numbers", "Nogueira et al. 2021; Lee et al. 2023"),
    "reverse": Entry("dataset.reverse:Reverse", "write a word backwards", "Deletang et al. 2023"),
    "rle": Entry("dataset.rle:RunLength", "run-length encode a string", OURS),
    "caesar": Entry("dataset.caesar:Caesar", "shift every letter by a given number", OURS),
    "trigo": Entry("dataset.trigo:Trigo", "sine, cosine or tangent of an angle, as digits", OURS),
    "fibonacci": Entry("dataset.fibonacci:Fibonacci", "continue a Fibonacci-like sequence", OURS),
    "poly": Entry("dataset.poly:Poly", "evaluate a polynomial at an integer", OURS),
    "fourier_mix": Entry("dataset.fourier_mix:FourierMix", "continue a sum of sinusoids", OURS),
}
