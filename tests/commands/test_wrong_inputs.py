"""Wrong inputs: exit code 2, one line on stderr that says what is allowed, no traceback, nothing written.

    python -m pytest tests/commands/test_wrong_inputs.py

Every case is a command line and a pattern for its line. `{folder}` is a folder with the files of `prepare`, `{run}` a
finished run.
"""

import hashlib
import re

import pytest
import torch
from conftest import TINY_NEEDLE, bench

MIXER = "from src.models.base import Mixer\n\n\nclass Echo(Mixer):\n    def forward(self, x):\n        return x\n"
TASK = (
    "from dataset.base import Example, Task\n\n\nclass Copy(Task):\n"
    "    def example(self, rng, length):\n        return Example('a>', 'a')\n"
)

USER_FILES = {
    "echo.py": MIXER,
    "broken.py": "def (:\n",
    "imports.py": "import a_package_that_is_nowhere\n",
    "nothing.py": "x = 1\n",
    "two.py": MIXER + "\n\nclass Other(Echo):\n    pass\n",
    "tuple.py": MIXER.replace("return x", "return x, None"),
    "narrow.py": MIXER.replace("return x", "return x[..., :3]"),
    "raises.py": MIXER.replace("return x", "return x @ x"),
    "no_forward.py": "from src.models.base import Mixer\n\n\nclass Lazy(Mixer):\n    pass\n",
    "no_args.py": MIXER.replace(
        "    def forward", "    def __init__(self):\n        super().__init__()\n\n    def forward"
    ),
    "whole.py": "from src.models.base import ARModel\n\n\nclass Flat(ARModel):\n"
    "    def __init__(self, vocab_size, args):\n        super().__init__()\n\n"
    "    def forward(self, x, attn_mask=None):\n        return x.float()\n",
    "takes_lr.py": "from dataclasses import dataclass\nfrom src.config import option\n"
    + MIXER
    + "\n    @dataclass(frozen=True)\n    class Config:\n        lr: float = option(1.0, 'mine')\n",
    "bad_task.py": TASK.replace("return Example('a>', 'a')", "return {}['length']"),
    "empty.txt": "",
    "short.txt": "to be or not to be",
    "notes.md": "# no code",
}

CASES = {
    # sizes
    "dropout between -1 and 0": (
        "--attn_dropout -0.5",
        r"--attn_dropout: got -0.5, allowed: -1 \(as --dropout\), or 0",
    ),
    "a rate that was not tried": (
        "--lr 0.01 --lr_tried 0.1,0.2",
        r"--lr: got 0.01, allowed: one of --lr_tried \(0.1, 0.2",
    ),
    "a range that falls": (
        "--eval_lengths 50-40",
        r"--eval_lengths: got '50-40', allowed: lengths from 1 to 1,048,576",
    ),
    "a range without steps": ("--eval_lengths 40-50:0", r"--eval_lengths: got '40-50:0', allowed: lengths"),
    "stop above one": ("--stop_at 1.5", r"--stop_at: got 1.5, allowed: <= 1"),
    "validations minus two": ("--eval_every -2", r"--eval_every: got -2, allowed: >= -1"),
    "a stop that needs answers": (
        "--task fourier_mix --stop_at 0.9",
        r"--stop_at: got 0.9, allowed: 0 for this task, whose primary metric \w+ needs decoded answers",
    ),
    "width zero": ("--d_model 0", r"--d_model: got 0, allowed: >= 1"),
    "layers negative": ("--n_layer -2", r"--n_layer: got -2, allowed: >= 1"),
    "heads that do not divide": ("--n_head 3", r"n_head.*3.*16"),
    "width with a fraction": ("--d_model 16.5", r"--d_model: got '16.5', allowed: a whole number"),
    "layers as a word": ("--n_layer two", r"--n_layer: got 'two', allowed: a whole number"),
    "mlp below minus one": ("--dim_ffn -2", r"--dim_ffn: got -2, allowed: >= -1"),
    "context zero": ("--context_len 0", r"--context_len: got 0, allowed: >= 1"),
    "batch zero": ("--batch_size 0", r"--batch_size: got 0, allowed: >= 1"),
    "steps negative": ("--max_steps -1", r"--max_steps: got -1, allowed: >= 0"),
    "threads beyond reason": ("--threads 100000", r"--threads: got 100000, allowed: <= 1024"),
    "micro batch above the batch": (
        "--batch_chars 0 --batch_size 8 --micro_batch_size 9",
        r"--micro_batch_size: got 9, allowed: at most --batch_size 8",
    ),
    "batch too small for one sequence": ("--batch_chars 5", r"--batch_chars: got 5, allowed: at least .*\d+"),
    "flag without a value": ("--d_model", r"--d_model: expected one argument"),
    "size twice": ("--d_model 16 32", r"unexpected argument '32'"),
    # numbers
    "rate nan": ("--lr nan", r"--lr: got nan, allowed: a finite number"),
    "rate infinite": ("--lr inf", r"--lr: got inf, allowed: a finite number"),
    "rate minus infinity": ("--lr=-inf", r"--lr: got -inf, allowed: a finite number"),
    "rate overflows": ("--lr 1e999", r"--lr: got inf, allowed: a finite number"),
    "rate zero": ("--lr 0", r"--lr: got 0.0, allowed: > 0"),
    "rate negative": ("--lr -0.1", r"--lr: got -0.1, allowed: > 0"),
    "end rate above the peak": ("--lr 0.001 --min_lr 0.1", r"--min_lr: got 0.1, allowed: at most --lr 0.001"),
    "dropout one": ("--dropout 1", r"--dropout: got 1.0, allowed: <= 0.95"),
    "decay nan": ("--weight_decay nan", r"--weight_decay: got nan, allowed: a finite number"),
    "beta one": ("--beta2 1", r"--beta2: got 1.0, allowed: < 1"),
    "beta negative": ("--beta1 -0.1", r"--beta1: got -0.1, allowed: >= 0"),
    "clip negative": ("--grad_clip -1", r"--grad_clip: got -1.0, allowed: >= 0"),
    "smoothing one": ("--label_smoothing 1", r"--label_smoothing: got 1.0, allowed: <= 0.9"),
    "embedding scale zero": ("--embed_std 0", r"--embed_std: got 0.0, allowed: > 0"),
    "seed negative": ("--seed -1", r"--seed: got -1, allowed: >= 0"),
    "seed too large": (f"--seed {2**31}", r"--seed: got 2147483648, allowed: <= 2147483647"),
    "switch with a word": ("--compile maybe", r"--compile: got 'maybe', allowed: true or false"),
    # names
    "task misspelt": ("--task nedle", r"unknown task 'nedle', allowed: .*needle.*did you mean 'needle'\?"),
    "model misspelt": ("--model trasformer", r"unknown model 'trasformer', allowed: .*did you mean 'transformer'\?"),
    "preset misspelt": ("--preset smal", r"unknown preset 'smal', allowed: small, base.*did you mean 'small'\?"),
    "precision unknown": ("--precision bf61", r"--precision: got 'bf61', allowed: .*did you mean 'bf16'\?"),
    "device unknown": ("--device gpu", r"--device: got 'gpu', allowed: auto, cpu"),
    "position unknown": ("--pos sinusodial", r"--pos: got 'sinusodial', allowed: .*did you mean 'sinusoidal'\?"),
    "lengths unknown": (
        "--train_lengths unifrom",
        r"--train_lengths: got 'unifrom', allowed: uniform, fixed; did you mean 'uniform'\?",
    ),
    "backend unknown": ("--backend spda", r"--backend: .*'spda'.*allowed"),
    "backend of an unknown op": ("--backend atention=sdpa", r"--backend: .*'atention.*allowed"),
    "logger unknown": (
        "--log tensorbord",
        r"--log: got 'tensorbord', allowed: none, tensorboard; did you mean 'tensorboard'\?",
    ),
    "flag misspelt": ("--d_modle 16", r"unknown flag --d_modle .*did you mean '--d_model'\?"),
    "flag of another task": ("--task reverse --needle_len 2", r"unknown flag --needle_len for this task and model"),
    "flag with dashes": ("--max-steps 12", r"unknown flag --max-steps .*did you mean '--max_steps'\?"),
    "text without a flag": (
        "needle --task",
        r"unknown command 'needle', allowed: train, list, generate, check, speed, profile, kernels, study, compare, "
        r"card, claims, report, reproduce, translate, export, import, bench; did you mean '--task needle'\?",
    ),
    "command misspelt": ("genrate --out_dir x", r"unknown command 'genrate', allowed: .*did you mean 'generate'\?"),
    "command of another program": ("sweep --task needle", r"unknown command 'sweep', .*did you mean 'compare'\?"),
    "command unknown": (
        "xyzzy",
        r"unknown command 'xyzzy', allowed: train, list, generate, check, speed, profile, kernels, study, compare, "
        "card, claims, report, reproduce, translate, export, import, bench; .*--help",
    ),
    # splits and lengths
    "no validation examples": ("--val_size 0", r"--val_size: got 0, allowed: at least 1"),
    "no test examples": ("--test_size 0", r"--test_size: got 0, allowed: at least 1"),
    "more test examples than exist": (
        "--task reverse --max_len 1",
        r"--(val|test)_size: got \d+, allowed: at most \d+, the distinct",
    ),
    "more training examples than exist": (
        "--task reverse --max_len 2 --val_size 2 --test_size 2 --train_size 100000",
        r"--train_size: got 100000, allowed: at most about \d+",
    ),
    "epochs of fresh data": (
        "--epochs 3 --max_steps 0",
        r"--epochs: got 3, but fresh data .* has no epochs; give --max_steps, or a --train_size",
    ),
    "fresh data without an end": ("--max_steps 0", r"--max_steps: got 0, but fresh data"),
    "shortest above longest": ("--min_len 20 --max_len 18", r"--min_len: got 20, allowed: 1 .. the longest length 18"),
    "needle longer than the hay": ("--needle_len 40", r"--min_len: got 16, allowed: >= 44"),
    "too many needles": ("--n_distractors 26", r"--n_distractors: got 26, allowed: <= 25"),
    "test length as a word": (
        "--eval_lengths long",
        r"--eval_lengths: got 'long', allowed: multiples such as 2x, whole numbers",
    ),
    "test length nan": ("--eval_lengths nanx", r"--eval_lengths: got 'nanx', allowed: lengths from 1"),
    "test length zero": ("--eval_lengths 2x,0", r"--eval_lengths: got '0', allowed: lengths from 1"),
    "test length too short for the task": ("--eval_lengths 2", r"length 2: too short, allowed: >= 8"),
    # the text of a language task
    "text missing": (
        "--task tiny_shakespeare --data_path {folder}/none.txt",
        r"--data_path: got '.*none.txt', no such file, allowed",
    ),
    "text is a folder": (
        "--task tiny_shakespeare --data_path {folder}",
        r"--data_path: got '.*', which is a folder, allowed",
    ),
    "text empty": (
        "--task tiny_shakespeare --data_path {folder}/empty.txt",
        r"--data_path: got '.*empty.txt', which is empty, allowed",
    ),
    "text binary": (
        "--task tiny_shakespeare --data_path {folder}/binary.txt",
        r"--data_path: got '.*binary.txt', a binary file .*allowed",
    ),
    "text not utf-8": (
        "--task tiny_shakespeare --data_path {folder}/latin.txt",
        r"--data_path: got '.*latin.txt', which is not UTF-8 .*allowed",
    ),
    "text too short": (
        "--task tiny_shakespeare --data_path {folder}/short.txt",
        r"--context_len: got 24, .*less than .* of the training text.*--data_path",
    ),
    "text for a task that has none": (
        "--data_path {folder}/short.txt",
        r"--data_path: got '.*short.txt', but task Needle makes its own data",
    ),
    "test lengths of a task without": (
        "--task trigo --eval_lengths 2x",
        r"--eval_lengths: got 2x, but Trigo has no length",
    ),
    "test windows longer than the test text": (
        "--task tiny_shakespeare --data_path {folder}/long.txt --eval_lengths 9999",
        r"--eval_lengths: got 9999, allowed: at most \d+, the scored characters",
    ),
    # a user's own file
    "model file missing": (
        "--model {folder}/gone.py",
        r"--model: got '.*gone.py' \(no such file\), allowed: a .py file that defines one Mixer or ARModel",
    ),
    "model file is a folder": ("--model {folder}/folder.py", r"--model: got '.*folder.py' \(is a folder\), allowed"),
    "model file is no python": ("--model {folder}/notes.md", r"--model: got '.*notes.md' \(not a .py file\), allowed"),
    "model file does not parse": (
        "--model {folder}/broken.py",
        r"--model: '.*broken.py' cannot be imported, line 1: SyntaxError",
    ),
    "model file imports what is not there": (
        "--model {folder}/imports.py",
        r"--model: '.*imports.py' cannot be imported.*a_package_that_is_nowhere",
    ),
    "model file defines nothing": (
        "--model {folder}/nothing.py",
        r"--model: '.*nothing.py' defines none, allowed: exactly one public Mixer or ARModel",
    ),
    "model file defines two": (
        "--model {folder}/two.py",
        r"--model: '.*two.py' defines Echo, Other, allowed: exactly one",
    ),
    "mixer returns a tuple": (
        "--model {folder}/tuple.py",
        r"--model: the forward of the mixer in '.*tuple.py' returns tuple, allowed: a tensor of shape",
    ),
    "mixer returns another width": (
        "--model {folder}/narrow.py",
        r"--model: .*'.*narrow.py' returns \(\d+, \d+, 3\), allowed: a tensor of shape \(.*, 16\)",
    ),
    "mixer raises": ("--model {folder}/raises.py", r"--model: '.*raises.py', line 6, in forward: \w+Error"),
    "mixer without forward": (
        "--model {folder}/no_forward.py",
        r"--model: '.*no_forward.py': NotImplementedError: Lazy must define forward",
    ),
    "mixer that takes no args": ("--model {folder}/no_args.py", r"--model: '.*no_args.py'.*TypeError"),
    "whole model returns no logits": (
        "--model {folder}/whole.py",
        r"--model: the forward of the model in '.*whole.py' returns \(\d+, \d+\), allowed",
    ),
    "model with a flag that exists": (
        "--model {folder}/takes_lr.py",
        r"flag --lr of .*Config already exists.*rename the field",
    ),
    "task file missing": (
        "--task {folder}/gone.py",
        r"--task: got '.*gone.py' \(no such file\), allowed: a .py file that defines one Task",
    ),
    "task file defines a model": (
        "--task {folder}/echo.py",
        r"--task: '.*echo.py' defines none, allowed: exactly one public Task",
    ),
    "task raises": ("--task {folder}/bad_task.py", r"--task: '.*bad_task.py', line 6, in example: KeyError: 'length'"),
    # the machine
    "cuda device beyond the last": (
        "--device cuda:99",
        r"--device: got 'cuda:99' \(.*found here\), allowed: auto, cpu",
    ),
    "half precision on a cpu": (
        "--device cpu --precision fp16",
        r"--precision: got fp16 on cpu, allowed there: auto, fp32, bf16",
    ),
    # the run directory
    "run directory is a file": (
        "--out_dir {folder}/notes.md",
        r"--out_dir: got '.*notes.md', which is not a folder, allowed",
    ),
    "run directory below a file": (
        "--out_dir {folder}/notes.md/run",
        r"--out_dir: got '.*run', which cannot be written .*allowed",
    ),
    "run directory holds a finished run": (
        "--out_dir {run}",
        r"--out_dir: '.*' holds a finished run; .*--resume.*--overwrite",
    ),
    "run directory of another program": (
        "--out_dir {folder}/foreign --overwrite",
        r"--out_dir: '.*foreign' holds a config.json that is not a run's",
    ),
    "run directory without a name": ("--out_dir=", r"--out_dir: got '', allowed: a folder"),
    "two run directories": ("--out_dir a b", r"--out_dir: got 2 folders, allowed: one"),
    # flags that contradict each other
    "resume and overwrite": (
        "--resume --overwrite --out_dir {run}",
        r"--resume and --overwrite contradict each other; give one",
    ),
    "two modes": (
        "--eval_only --vis_only --out_dir {run}",
        r"--eval_only and --vis_only contradict each other; give one",
    ),
    "rope and another position": ("--rope --pos learned", r"--rope and --pos contradict each other; give one"),
    "bias and no bias": ("--no_bias --bias", r"--no_bias and --bias contradict each other; give one"),
    "two batch sizes": ("--batch_size 4", r"--batch_size and --batch_chars contradict each other; give one"),
    "figures of a training": ("--figures x", r"--figures: only goes with --vis_only"),
    "rope where there is none": (
        "--model {folder}/echo.py --rope",
        r"--pos: got 'rope', which Echo does not have, allowed: learned, sinusoidal, none",
    ),
}

# Commands on an existing run, without TINY_NEEDLE in front.
COMMANDS = {
    "resume nothing": ("--resume", r"--out_dir: got nothing, allowed: the directory of an existing run"),
    "resume a missing run": (
        "--resume --out_dir {run}x",
        r"--out_dir: got '.*' \(no such folder\), allowed: the directory of an existing run; did you mean",
    ),
    "resume a folder without a run": (
        "--resume --out_dir {folder}",
        r"--out_dir: got '.*' \(a folder without config.json\), allowed",
    ),
    "resume with the run as its value": ("--resume {run}", r"--resume: got '.*', allowed: nothing.*--out_dir"),
    "resume with another rate": (
        "--resume --out_dir {run} --lr 0.5",
        r"--lr: got 0.5, but this run was started with 0.003; --resume changes nothing",
    ),
    "resume with another task": (
        "--resume --out_dir {run} --task dyck",
        r"--task: got dyck, but this run was started with needle",
    ),
    "resume with another preset": (
        "--resume --out_dir {run} --preset base",
        r"--preset: got 'base', but this run was started with 'small'",
    ),
    "resume with a flag of no use": ("--resume --out_dir {run} --n_types 2", r"unknown flag --n_types"),
    "resume two runs": ("--resume --out_dir {run} {run}", r"--out_dir: got 2 folders, allowed: exactly one"),
    "evaluate nothing": ("--eval_only", r"--out_dir: got nothing, allowed"),
    "evaluate a missing run": (
        "--eval_only --out_dir nowhere",
        r"--out_dir: got 'nowhere' \(no such folder\), allowed",
    ),
    "evaluate another width": (
        "--eval_only --out_dir {run} --d_model 32",
        r"--d_model: got 32, but the run has 16; with --eval_only only .* may change",
    ),
    "evaluate and overwrite": (
        "--eval_only --overwrite --out_dir {run}",
        r"--eval_only and --overwrite contradict each other",
    ),
    "evaluate at an impossible length": (
        "--eval_only --out_dir {run} --eval_lengths 3",
        r"length 3: too short, allowed: >= 8",
    ),
    "evaluate without examples": (
        "--eval_only --out_dir {run} --test_size 0",
        r"--test_size: got 0, allowed: at least 1",
    ),
    "draw nothing": ("--vis_only", r"--vis_only: no --out_dir given"),
    "draw a missing run": ("--vis_only --out_dir nowhere", r"--out_dir: got 'nowhere' \(no such folder\), allowed"),
    "overlay without a folder": ("--vis_only --out_dir {run} {run}", r"--vis_only: got 2 runs but no --figures DIR"),
    "draw with a training flag": ("--vis_only --out_dir {run} --lr 1", r"unknown flag --lr"),
    "draw into a file": (
        "--vis_only --out_dir {run} --figures {folder}/notes.md",
        r"figures: '.*notes.md' is a file, allowed: a folder",
    ),
    "overlay into a file": (
        "--vis_only --out_dir {run} {run} --figures {folder}/notes.md",
        r"figures: '.*notes.md' is a file, allowed: a folder",
    ),
    "list a word": ("list needle", r"unexpected argument 'needle'"),
    "list a task that is misspelt": ("list --task dyk", r"unknown task 'dyk', allowed: .*did you mean 'dyck'\?"),
    "list a model that is misspelt": ("list --model grru", r"unknown model 'grru', allowed: .*did you mean 'gru'\?"),
    "list an unknown flag": ("list --tsak needle", r"unknown flag --tsak for this command; did you mean '--task'\?"),
    "list a folder": ("list --task {folder}/folder.py", r"--task: got '.*folder.py' \(is a folder\), allowed"),
    "generate from nothing": ("generate --prompt a", r"generate: got 0 run directories, allowed: exactly one"),
    "generate from two": (
        "generate {run} --out_dir {run} --prompt a",
        r"generate: got 2 run directories, allowed: exactly one",
    ),
    "generate from a missing run": (
        "generate {run}x --prompt a",
        r"--out_dir: got '.*' \(no such folder\), allowed: .*did you mean",
    ),
    "generate after an unknown character": (
        "generate {run} --prompt ab#c",
        r"'#' at position 2 is not in the vocabulary, allowed",
    ),
    "generate at nan degrees": (
        "generate {run} --prompt a --temperature nan",
        r"--temperature: got nan, allowed: a finite number",
    ),
    "generate below zero": ("generate {run} --prompt a --temperature -1", r"--temperature: got -1.0, allowed: >= 0"),
    "generate among none": ("generate {run} --prompt a --top_p 0", r"--top_p: got 0.0, allowed: > 0"),
    "generate among more than all": ("generate {run} --prompt a --top_p 1.5", r"--top_p: got 1.5, allowed: <= 1"),
    "generate among fewer than none": ("generate {run} --prompt a --top_k -3", r"--top_k: got -3, allowed: >= 0"),
    "generate with unknown weights": (
        "generate {run} --prompt a --weights bset",
        r"--weights: got 'bset', allowed: best, last; did you mean 'best'\?",
    ),
    "generate with a misspelt flag": (
        "generate {run} --promt a",
        r"unknown flag --promt for this command; did you mean '--prompt'\?",
    ),
    "generate greedily and sampled": (
        "generate {run} --prompt a --greedy --top_k 3",
        r"--greedy and --top_k contradict each other",
    ),
    "generate past the position table": (
        "generate {run} --prompt a --max_new_tokens 500",
        r"1 prompt tokens|learned position table of \d+",
    ),
    "generate after a prompt too long": (
        "generate {run} --prompt " + "a" * 100,
        r"--prompt: got 100 characters, allowed: at most \d+",
    ),
}


def prepare(folder) -> None:
    for name, text in USER_FILES.items():
        (folder / name).write_text(text)
    (folder / "binary.txt").write_bytes(b"to be\0or not" * 100)
    (folder / "latin.txt").write_bytes("à être".encode("latin-1") * 100)
    (folder / "long.txt").write_text("to be or not to be, " * 100)
    (folder / "folder.py").mkdir()
    (folder / "foreign").mkdir()
    (folder / "foreign" / "config.json").write_text('{"port": 8080}')


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """{folder}: user's files; {run}: a finished run."""
    import benchmark

    folder = tmp_path_factory.mktemp("folder")
    prepare(folder)
    run = tmp_path_factory.mktemp("runs") / "run"
    assert benchmark.main([*TINY_NEEDLE, "--max_steps", "3", "--out_dir", str(run)]) == 0
    return {"folder": folder, "run": run}


def tree(*roots) -> dict:
    """Every path below the roots, with the digest of its content."""
    return {
        str(p): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else None
        for root in roots
        for p in root.rglob("*")
        if p.parent.name != "__pycache__" and p.name != "__pycache__"
    }


def refused(call, line: str, pattern: str, places, tmp_path, before=()) -> str:
    """Run a wrong command line and assert everything that must hold of one; the line it printed."""
    arguments = [word.format(**places) for word in line.split()]
    files = tree(tmp_path, *places.values())
    code, out, err = call(*before, *arguments)
    assert "Traceback" not in err
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: ")
    assert re.search(pattern, err), err
    assert tree(tmp_path, *places.values()) == files
    return err


@pytest.mark.parametrize(("line", "pattern"), CASES.values(), ids=CASES)
def test_training_refuses(main, places, tmp_path, line, pattern):
    """In front of a wrong flag stand right ones (but --quiet, which could hide chatter); a command word comes first."""
    right = [] if not line.startswith("--") else [word for word in TINY_NEEDLE if word != "--quiet"]
    refused(main, line, pattern, places, tmp_path, before=right)


@pytest.mark.parametrize(("line", "pattern"), COMMANDS.values(), ids=COMMANDS)
def test_command_refuses(main, places, tmp_path, line, pattern):
    refused(main, line, pattern, places, tmp_path)


def test_device_cuda_is_refused_where_there_is_none(main, places, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    pattern = r"--device: got 'cuda' \(no CUDA device is found here\), allowed: auto, cpu; use --device cpu"
    refused(main, "--device cuda", pattern, places, tmp_path, before=TINY_NEEDLE)


def test_refused_fails_on_a_right_command(main, places, tmp_path):
    """The check itself: a command that is accepted, and writes, does not pass for a refused one."""
    with pytest.raises(AssertionError):
        refused(main, "--max_steps 1 --quiet", r"--max_steps", places, tmp_path, before=TINY_NEEDLE)
    assert list(tmp_path.rglob("config.json"))


PROCESSES = [
    "mixer raises",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("width zero", "run directory holds a finished run")),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
def test_process_refuses(places, tmp_path, name):
    """The same through a real process: nothing else (a warning, an announcement) reaches the terminal."""
    line, pattern = CASES[name]

    def call(*arguments):
        done = bench(*arguments, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    refused(call, line, pattern, places, tmp_path, before=[word for word in TINY_NEEDLE if word != "--quiet"])


@pytest.mark.parametrize("name", ["list a task that is misspelt", "draw a missing run", "resume with another rate"])
def test_command_process_refuses(places, tmp_path, name):
    line, pattern = COMMANDS[name]

    def call(*arguments):
        done = bench(*arguments, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    refused(call, line, pattern, places, tmp_path)
