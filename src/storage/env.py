"""Where a run happens: the device and precision that it uses, and the machine as env.json describes it.

    device = resolve_device(args.device)
    precision, reason = resolve_precision(args.precision, device)
    write_json(run.env, collect(args, device, (precision, reason), backends))

Each choice is made once and has a reason. A device or precision that was named but is missing is an error, never
silently another one. torch is imported inside the functions, so commands without tensors do not need it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from src.flags.fields import UserError, suggest
from src.flags.run_flags import to_dict
from src.storage.files import open_sealed, read_json, seal, write_json
from src.storage.schema import MayLack, check

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("torch", "numpy", "scipy", "matplotlib", "tqdm", "tensorboard", "triton"),
    *("mamba-ssm", "causal-conv1d", "flash-attn", "flash-linear-attention"),
)
PROGRAM = ("benchmark.py", "dataset", "src")  # what decides the numbers of a run
CHOICES = {"*": {"backend": "text", "reason": "text", "*": "anything"}}
CONTENT = {  # of env.json of a training run, what is read from it
    "data": {"digest": "text", "source": "text?", "*": "anything"},
    "backends": CHOICES,
    "chosen_backends": MayLack(CHOICES),
    "device": {"name": "text", "kind": "text", "*": "anything"},
    "versions": {"*": "text"},
    "other_code": MayLack([{"kind": "text", "sha256": "text", "from_step": "count"}]),
    "*": "anything",
}
CPUINFO = Path("/proc/cpuinfo")


def resolve_device(text: str):
    """torch.device of `auto` (CUDA if there is one), `cpu`, `cuda` (the first) or `cuda:N`; UserError if missing."""
    import torch

    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    allowed = ", ".join(["auto", "cpu", *(["cuda"] if n else []), *(f"cuda:{i}" for i in range(n))])
    if text == "cpu" or (text == "auto" and n == 0):
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::([0-9]{1,4}))?", text, re.ASCII)
    if match is None and text != "auto":
        raise UserError(f"--device: got '{text}', allowed: {allowed}{suggest(text, ('auto', 'cpu', 'cuda'))}")
    index = int(match[1] or 0) if match else 0
    if index >= n:
        found = "no CUDA device is found here" if n == 0 else f"{n} CUDA device{'s' if n > 1 else ''} found here"
        raise UserError(
            f"--device: got '{text}' ({found}), allowed: {allowed}; use --device {'cpu' if n == 0 else 'cuda'}"
        )
    return torch.device("cuda", index)


def resolve_precision(text: str, device) -> tuple[str, str]:
    """(name, reason) of `auto`, `fp32`, `fp16` or `bf16` on a device.

    auto is bf16 if the device is fast at it, else fp32. UserError for fp16 on a CPU and for bf16 on a CUDA device older
    than sm80. bf16 is allowed on any CPU, because the results are the same; the reason then says that it is slow.
    """
    names = ("auto", "fp32", "fp16", "bf16")
    if text not in names:
        raise UserError(f"--precision: got '{text}', allowed: {', '.join(names)}{suggest(text, names)}")
    fast, why = _fast_bf16(device)
    if text == "auto":
        return ("bf16" if fast else "fp32"), why
    if text == "fp16" and device.type != "cuda":
        raise UserError(
            f"--precision: got fp16 on {device}, allowed there: auto, fp32, bf16 (fp16 needs a CUDA device); "
            "use --precision auto"
        )
    if text == "bf16" and not fast and device.type == "cuda":
        raise UserError(
            f"--precision: got bf16 on {device} ({why}), allowed there: auto, fp32, fp16; use --precision auto"
        )
    return text, "asked for" + (f", though slow here: {why}" if text == "bf16" and not fast else "")


def check_compiler(device) -> None:
    """UserError where torch.compile does not work for this device. Found by compiling one line.

    The line holds a new number each time, so that a kernel in torch's cache cannot hide that the compiler is missing.
    """
    import torch

    number = int.from_bytes(os.urandom(4), "little")
    try:
        torch.compile(lambda x: x.sin() * number)(torch.ones(2, device=device))
    except Exception as error:  # no C++ compiler, no Python headers, no triton: each has errors of its own
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"--compile: torch.compile does not work here for {device} ({type(error).__name__}: {reason}); install a "
            "C++ compiler, or name one in the variable CXX, or leave --compile out"
        ) from error


def _fast_bf16(device) -> tuple[bool, str]:
    """Whether the device computes faster in bf16 than in fp32, and how that is known."""
    import torch

    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"{torch.cuda.get_device_name(device)} is sm{major}{minor}, bf16 needs sm80"
    found = sorted(_cpu_bf16_flags())
    return bool(found), f"CPU has {' and '.join(found)}" if found else "CPU has neither avx512_bf16 nor amx_bf16"


def _cpu_bf16_flags() -> set[str]:
    """Which of avx512_bf16 and amx_bf16 the CPU has: as Linux lists them, on other systems as torch detects them."""
    flags = _cpuinfo("flags")
    if flags:
        return {"avx512_bf16", "amx_bf16"} & set(flags.split())
    import torch

    probes = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    return {flag for flag, name in probes.items() if _probe(getattr(torch.cpu, name, None))}


def _probe(function) -> bool:
    """The answer of an undocumented function of torch; False if this torch or this system does not have it."""
    try:
        return bool(function and function())
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


def _cpuinfo(key: str) -> str:
    """The first value of a key in /proc/cpuinfo; empty if there is none."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    match = re.search(rf"^{re.escape(key)}[ \t]*:[ \t]*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def cpu_model() -> str:
    """The processor's name, or its architecture if the system does not tell."""
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def git_commit(root: Path = PROJECT) -> tuple[str, bool] | None:
    """(commit, whether the tree differs from it) of the project; None if it is not a git checkout of its own."""
    top = _output("git", "-C", str(root), "rev-parse", "--show-toplevel")
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD")
    if not top or not commit or Path(top).resolve() != Path(root).resolve():
        return None
    return commit, _output("git", "-C", str(root), "--no-optional-locks", "status", "--porcelain") != ""


def changed_files(old: str, new: str, root: Path = PROJECT) -> int | None:
    """How many files of the program differ between two commits; None if the history does not have both, or no git."""
    listed = _output("git", "-C", str(root), "diff", "--name-only", f"{old}..{new}", "--", *PROGRAM)
    return None if listed is None else len(listed.splitlines())


def _output(*command: str) -> str | None:
    """What a small program prints, stripped; None if it is missing, fails, or takes ten seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages of PACKAGES. Nothing is imported for it."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    """They are read once: a process goes on with the packages that it has begun with."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def collect(args, device, precision_reason: tuple[str, str], backends) -> dict:
    """The content of env.json, JSON-able.

    args: the run configuration, or a dict.  precision_reason: of `resolve_precision`.  backends: op -> kernel and why.
    Sizes are in MiB. The caller adds the data's digest.
    """
    import torch

    commit = git_commit()
    precision, reason = precision_reason
    return {
        "commit": commit and commit[0],
        "dirty": commit and commit[1],
        "argv": list(sys.argv),
        "args": dict(args) if isinstance(args, dict) else to_dict(args),
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": {
            "model": cpu_model(),
            "cores": os.cpu_count(),
            "usable_cores": usable_cores(),
            "bf16": sorted(_cpu_bf16_flags()),
        },
        "threads": {"torch": torch.get_num_threads(), "interop": torch.get_num_interop_threads()},
        "device": _describe(device),
        "precision": {"name": precision, "reason": reason},
        "backends": backends,
    }


def write_env(path, content: dict) -> None:
    """Write env.json of a training run, sealed."""
    write_json(path, seal(content))


def open_env(path) -> dict:
    """The content of env.json of a training run, verified.

    UserError where it is missing or was edited, and where what is read from it has another type. A file of an older
    version has no digest.
    """
    content = read_json(path)
    if isinstance(content, dict) and "sha256" in content:
        content = open_sealed(path)
    try:
        check(content, CONTENT)
    except ValueError as error:
        raise UserError(f"'{path}': {error}; restore the file, or start again with --overwrite") from error
    return content


def usable_cores() -> int | None:
    """The CPU cores that this process may use, where that is known."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _describe(device) -> dict:
    import torch

    if device.type != "cuda":
        return {"name": str(device), "kind": cpu_model()}
    facts = torch.cuda.get_device_properties(device)
    return {
        "name": str(device),
        "kind": facts.name,
        "sm": f"{facts.major}{facts.minor}",
        "memory_mib": facts.total_memory // 2**20,
        "n_devices": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def memory_bytes(device) -> int | None:
    """All memory of a device, used or not; None if the system does not say."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def peak_memory_mib(device) -> float | None:
    """Peak memory so far in MiB: on CUDA of torch's allocator on that device, else of the process; None if unknown."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 2**10  # bytes there, KiB elsewhere
