"""What is to be learned: one task per file. `TASKS` maps a name to a lazy entry; add a line here to add a task."""

from src.flags.registry import Entry

OURS = "this project"

TASKS = {
    "tiny_shakespeare": Entry(
        "dataset.tiny_shakespeare:TinyShakespeare",
        "model the characters (or tokens) of Tiny Shakespeare",
        "Karpathy 2015, char-rnn",
    ),
    "needle": Entry(
        "dataset.needle:Needle",
        "read back the value of a needle hidden in a haystack",
        "after Kamradt 2023; RULER, Hsieh et al. 2024",
    ),
    "dyck": Entry(
        "dataset.dyck:Dyck", "close the open brackets in the right order", "Suzgun et al. 2019; Hewitt et al. 2020"
    ),
    "addition": Entry("dataset.addition:Addition", "add two decimal numbers", "Nogueira et al. 2021; Lee et al. 2023"),
    "reverse": Entry("dataset.reverse:Reverse", "write a word backwards", "Deletang et al. 2023"),
    "rle": Entry("dataset.rle:RunLength", "run-length encode a string", OURS),
    "caesar": Entry("dataset.caesar:Caesar", "shift every letter by a given number", OURS),
    "trigo": Entry("dataset.trigo:Trigo", "sine, cosine or tangent of an angle, as digits", OURS),
    "fibonacci": Entry("dataset.fibonacci:Fibonacci", "continue a Fibonacci-like sequence", OURS),
    "poly": Entry("dataset.poly:Poly", "evaluate a polynomial at an integer", OURS),
    "fourier_mix": Entry("dataset.fourier_mix:FourierMix", "continue a sum of sinusoids", OURS),
    "copy": Entry("dataset.copy:Copy", "write a word again", "Jelassi et al. 2024"),
    "selective_copy": Entry(
        "dataset.selective_copy:SelectiveCopy",
        "write the symbols scattered among blanks",
        "Gu and Dao 2023, Mamba, Table 1",
    ),
    "recall": Entry(
        "dataset.recall:Recall",
        "associative recall: the value of every key that comes again (MQAR)",
        "Arora et al. 2023, Zoology",
    ),
    "induction": Entry(
        "dataset.induction:Induction",
        "the symbol that followed the trigger before",
        "Gu and Dao 2023, Mamba, Table 11; Olsson et al. 2022",
    ),
    "sort": Entry("dataset.sort:Sort", "write digits in ascending order", "Deletang et al. 2023"),
    "parity": Entry(
        "dataset.parity:Parity", "the parity of the bits so far", "Deletang et al. 2023; Grazzi et al. 2024"
    ),
    "mod_arith": Entry(
        "dataset.mod_arith:ModArith",
        "evaluate an expression modulo a small number",
        "Deletang et al. 2023; Grazzi et al. 2024",
    ),
    "word_problem": Entry(
        "dataset.word_problem:WordProblem",
        "multiply the elements of a finite group",
        "Merrill et al. 2024; Grazzi et al. 2024",
    ),
    "wikitext": Entry(
        "dataset.wikitext:WikiText",
        "model the characters (or tokens) of WikiText, or of other Parquet files",
        "Merity et al. 2016",
        needs=("pyarrow",),
    ),
    "text": Entry(
        "dataset.text:Text",
        "model the characters (or tokens) of your own .txt, .jsonl and .parquet files",
        "after Karpathy 2015, char-rnn",
    ),
}
