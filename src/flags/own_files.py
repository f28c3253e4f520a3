"""A user's own file: how it is loaded, which modules beside it belong to it, and what it must not change.

    with hosted():                            # one command: what the files print goes to stderr
        module = load("model", path)          # UserError of one line where it cannot be imported
        code_of(path)                         # {"my_layer.py": path, "helper.py": path}

While a file loads, its folder is on the import path: after this project and the standard library, before installed
packages. So a helper beside the file is found, and neither `src` nor a module of Python can be replaced by accident.
The folder stays there until another file is loaded, for imports inside functions.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from src.flags.kinds import UserError
from src.flags.places import here

OURS = ("src", "dataset", "benchmark", "__main__")
INSTALLED = ("site-packages", "dist-packages")


_loaded: dict[Path, tuple[dict[str, str], ModuleType]] = {}  # file: (digests of its code, its module)
_helpers: dict[Path, dict[str, Path]] = {}  # file: {module that it loaded from its folder: the module's file}
_is_own: dict[str, bool] = {}  # answers of `is_own`, which is asked for every frame of a print


def absolute(path: str | Path) -> Path:
    """The whole path. The last link is not followed: a .py may be a link to a file without that ending."""
    path = Path(path)
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal: it shows whether a user's file has changed since a run began."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def load(kind: str, path: Path) -> ModuleType:
    """The module of a user's file, executed once per content. path: whole, as `absolute` makes it.

    Raises UserError of one line for whatever the file raises, an exit of the program among it.
    """
    folder = path.parent
    with contextlib.suppress(OSError, KeyError):
        if _loaded[path][0] == digests(code_of(path)):
            return _loaded[path][1]
    name = f"user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"  # two files may share a stem
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    _open_folder(folder)
    _loaded.pop(path, None)
    _helpers[path] = {}
    _is_own.clear()
    sys.modules[name] = module  # dataclasses and pickles look their module up by name
    try:
        _load_torch_for(path)
        with unchanged_settings(str(path)), _stderr_unless_it_exits():
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[name]
        raise UserError(f"--{kind}: '{path}' cannot be imported{_place(error, path)}: {told(error)}") from error
    _helpers[path] = dict(_modules_in(folder))
    _loaded[path] = digests(code_of(path)), module
    return module


def code_of(path: Path) -> dict[str, Path]:
    """{name below its folder: path} of a user's file, which comes first, and of the modules loaded from there."""
    path = here(path)
    mine, folder = _helpers.get(path, {}), path.parent
    known = {file for helpers in _helpers.values() for file in helpers.values()}
    late = [file for _, file in _modules_in(folder) if file not in known]  # imported inside a function
    helpers = sorted({*mine.values(), *late} - {path})
    return {p.relative_to(folder).as_posix(): p for p in (path, *helpers)}


def modules_beside(path: Path) -> set[str]:
    """The names of the modules that were loaded from the folder of a user's file."""
    return set(_helpers[path])


def digests(code: dict[str, Path]) -> dict[str, str]:
    """{name: SHA-256} of what `code_of` returned."""
    return {name: file_digest(path) for name, path in code.items()}


def is_own(filename: str) -> bool:
    """Whether a source file, as a traceback names it, is a user's: one that was loaded here, or a helper beside it."""
    if filename not in _is_own:
        path = Path(filename)
        folders = {own.parent for own in _helpers if own.parent in path.parents}
        _is_own[filename] = path in _helpers or any(path == file for f in folders for _, file in _modules_in(f))
    return _is_own[filename]


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an error that are in a user's files, the innermost last."""
    return [f for f in traceback.extract_tb(error.__traceback__) if is_own(f.filename)]


def told(error: BaseException) -> str:
    """The error in a few words. An exit is named as such."""
    if isinstance(error, SystemExit):
        return (
            f"the file ends the program (SystemExit: {error.code}), allowed: code that returns; parse a command line "
            'or exit under `if __name__ == "__main__":` only'
        )
    lines = [line.strip() for line in str(error).splitlines()] or [""]
    # torch's "Error(s) in loading state_dict for Layer:" says nothing without its next line
    return f"{type(error).__name__}: {' '.join(lines[: 2 if lines[0].endswith(':') else 1])}"


@contextlib.contextmanager
def unchanged_settings(name: str) -> Iterator[None]:
    """Restore the settings of the process that a user's code changes, and say so on stderr.

    These are the working directory and torch's own settings. A change of one file would otherwise reach the training
    of everything else.
    """
    before = _settings()
    try:
        yield
    except BaseException:
        _restore(before)
        raise
    for what, now, then in _restore(before):
        print(f"notice: '{name}' changed {what} to {now} for the whole program; it is {then} again", file=sys.stderr)


def _restore(before: dict) -> list[tuple[str, object, object]]:
    """Restore what differs from `before`: (what, its value now, its value before)."""
    now = _settings()
    changed = [(what, now[what][0], then) for what, (then, _) in before.items() if now[what][0] != then]
    for what, _, then in changed:
        before[what][1](then)
    return changed


@contextlib.contextmanager
def hosted() -> Iterator[None]:
    """One command. What users' files print goes to stderr, and afterwards nothing of them is left in the process."""
    path, stdout = list(sys.path), sys.stdout
    sys.stdout = OwnStdout(stdout)
    try:
        yield
    finally:
        sys.stdout.finish()
        sys.stdout, sys.path[:] = stdout, path
        for name in {n for own in _helpers for n, _ in _modules_in(own.parent)}:
            del sys.modules[name]
        for kept in (_loaded, _helpers, _is_own):
            kept.clear()


class OwnStdout:
    """Standard output for this program alone. What a user's file prints goes to stderr, each line once."""

    MOST_LINES = 1_000  # remembered ones; a layer that prints a new number in every pass must not fill the memory

    def __init__(self, stream):
        self._stream, self._line, self._seen = stream, "", set()

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if not (_helpers and _called_by_user()):
            return self._stream.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._show(line)
        return len(text)

    def writelines(self, lines) -> None:
        for line in lines:
            self.write(line)

    def finish(self) -> None:
        """Show a last line without a line break."""
        if self._line:
            self._show(self._line)

    def _show(self, line: str) -> None:
        if line in self._seen:
            return
        if len(self._seen) >= self.MOST_LINES:
            self._seen.clear()
        self._seen.add(line)
        print(line, file=sys.stderr)


def _called_by_user() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if is_own(frame.f_code.co_filename):
            return True
        frame = frame.f_back
    return False


def _open_folder(folder: Path) -> None:
    """Put a folder on the import path in place of other users' folders, and forget modules of the same names.

    So every file loads modules of its own, as they are now.
    """
    for other in {path.parent for path in _helpers}:
        while str(other) in sys.path:
            sys.path.remove(str(other))
        for name, _ in list(_modules_in(other)):
            top = name.partition(".")[0]
            if other == folder or any((folder / f).exists() for f in (top, f"{top}.py")):
                del sys.modules[name]
    # A link to the folder, in PYTHONPATH say, would give its modules another path.
    sys.path[:] = [p for p in sys.path if not p or p == str(folder) or os.path.realpath(p) != str(folder)]
    if str(folder) not in sys.path:
        places = (i for i, p in enumerate(sys.path) if any(part in INSTALLED for part in Path(p).parts))
        sys.path.insert(next(places, len(sys.path)), str(folder))
    importlib.invalidate_caches()


def _modules_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of the modules that were imported with this folder on the import path."""
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        file = getattr(module, "__dict__", {}).get("__file__")
        if top in OURS or not isinstance(file, str) or folder.name not in file:
            continue  # a few thousand modules are elsewhere, and a Path of each takes a while
        path = Path(file)
        if folder in path.parents and path.relative_to(folder).parts[0].partition(".")[0] == top:
            yield name, path


def _load_torch_for(path: Path) -> None:
    """Load torch first where the file names it, so that its settings before the file are known."""
    if b"torch" in path.read_bytes():
        with contextlib.suppress(ImportError):
            importlib.import_module("torch")


@contextlib.contextmanager
def _stderr_unless_it_exits() -> Iterator[None]:
    """Hold back what goes to stderr, and drop it after an exit: a parser's own usage is about other flags.

    No cache of byte code is written beside the user's file: one of the same second and size would hide a change.
    """
    held, stderr, cached = io.StringIO(), sys.stderr, sys.dont_write_bytecode
    sys.stderr, sys.dont_write_bytecode = held, True
    try:
        yield
    except SystemExit:
        held.truncate(0)
        raise
    finally:
        sys.stderr, sys.dont_write_bytecode = stderr, cached
        stderr.write(held.getvalue())


def _place(error: BaseException, path: Path) -> str:
    """', line 3 of helper.py': where in the user's code an error is."""
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno
    elif frames := own_frames(error):
        file, line = frames[-1].filename, frames[-1].lineno
    else:
        return ""
    return f", line {line}" + (f" of {os.path.relpath(file, path.parent)}" if Path(file) != path else "")


def _settings() -> dict:
    """{what: (value, the function that restores it)} of what a user's code must not leave changed."""
    found = {}
    with contextlib.suppress(OSError):
        found["the working directory"] = os.getcwd(), os.chdir
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_default_device"):
        return found
    deterministic = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    return found | {
        "torch's gradient mode": (torch.is_grad_enabled(), torch.set_grad_enabled),
        "torch's default dtype": (torch.get_default_dtype(), torch.set_default_dtype),
        "torch's default device": (
            torch.get_default_device(),
            lambda device: torch.set_default_device(None if device.type == "cpu" else device),
        ),
        "torch's number of threads": (torch.get_num_threads(), torch.set_num_threads),
        "torch's deterministic algorithms": (
            deterministic,
            lambda on: torch.use_deterministic_algorithms(on[0], warn_only=on[1]),
        ),
        "torch's float32 precision": (torch.get_float32_matmul_precision(), torch.set_float32_matmul_precision),
        "torch's anomaly mode": (torch.is_anomaly_enabled(), torch.autograd.set_detect_anomaly),
    }
