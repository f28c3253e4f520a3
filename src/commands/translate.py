"""`benchmark.py translate ACTION --config F`: the encoder-decoder in NumPy, from sentence pairs to translations.

    python benchmark.py translate prepare --config src/numpy_transformer/configs/tiny_enfr.yaml
    python benchmark.py translate train --config src/numpy_transformer/configs/tiny_enfr.yaml
    python benchmark.py translate run --config src/numpy_transformer/configs/tiny_enfr.yaml --text "The cat sleeps."

ACTION is one of these:
- prepare: read the sentence pairs (.csv, .tsv or .parquet); write vocabularies and ids into runs/<name>
- train:   train on them; write checkpoint.npz, history.json, samples.txt and figures
- run:     translate --text, or each line of --file, to stdout, one line per sentence

The YAML file names the pairs and the sizes; src/numpy_transformer/config.py lists its keys. After Ctrl-C,
`translate train --resume` goes on, and the result has the same bytes. torch is not used. Set OPENBLAS_NUM_THREADS=1:
the matrices are too small to share among cores.
"""

from __future__ import annotations

from dataclasses import dataclass

from src.flags.fields import UserError, option, suggest
from src.flags.parser import Parser, add_flags, config_of, read_flags

ACTIONS = {
    "prepare": ("config", "out_dir", "overwrite", "quiet"),
    "train": ("config", "out_dir", "overwrite", "quiet", "resume"),
    "run": ("config", "out_dir", "text", "file", "beam", "attention"),
}


@dataclass(frozen=True)
class TranslateConfig:
    """flags"""

    config: str = option("", "YAML file with the settings")
    out_dir: str = option("", "folder of the run; default runs/<name of the configuration>")
    overwrite: bool = option(False, "prepare: replace the run; train: replace its training")
    resume: bool = option(False, "train: go on from the checkpoint")
    quiet: bool = option(False, "prepare, train: no progress and no scores, only the folder")
    text: str | None = option(None, "run: the sentence to translate")
    file: str | None = option(None, "run: a text file with one sentence per line")
    beam: int = option(1, "run: 1 is greedy; more keeps so many beginnings and takes the best", least=1, most=64)
    attention: str | None = option(None, "run: also draw the attention of --text into this .png file")


def main(argv: list[str]) -> int:
    """Do one action. Wrong input is found before the first file is written."""
    parser = Parser(prog="benchmark.py translate", description=__doc__)
    parser.add_argument("action", metavar="ACTION", nargs="?", default="", help=", ".join(ACTIONS))
    add_flags(parser, TranslateConfig, TranslateConfig.__doc__)
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        return 0
    namespace = parser.parse_strict(argv)
    action = namespace.action
    if action not in ACTIONS:
        raise UserError(f"translate: got '{action}', allowed: {', '.join(ACTIONS)}{suggest(action, ACTIONS)}")
    given = read_flags(namespace, [TranslateConfig])
    for name in given:
        if name not in ACTIONS[action]:
            raise UserError(f"--{name}: means nothing with `translate {action}`; leave it out")
    if given.get("out_dir") == "":
        raise UserError("--out_dir: got '', allowed: a folder; leave the flag out for runs/<name>")
    if not given.get("config"):
        raise UserError(
            "--config: got nothing, allowed: a YAML file such as src/numpy_transformer/configs/tiny_enfr.yaml"
        )
    from src.numpy_transformer import actions

    return getattr(actions, action)(config_of(TranslateConfig, given))
