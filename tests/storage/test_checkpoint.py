"""Checkpoints: equal payloads give equal bytes, every altered byte is noticed, a crafted file runs nothing.

python -m pytest tests/storage/test_checkpoint.py
"""

import copy
import hashlib
import io
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from src.flags.fields import UserError
from src.storage import checkpoint
from src.storage.randomness import kept_random_state, seed_all

PROJECT = Path(__file__).resolve().parents[2]


class Tied(torch.nn.Module):
    """A small model with tied weights and a buffer."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 5)
        self.layer = torch.nn.Linear(5, 5)
        self.head = torch.nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, ids):
        return self.head(self.layer(self.embed(ids)))


def trained(steps: int = 3):
    """A model, its optimiser and scheduler after a few steps."""
    model = Tied()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step))
    for _ in range(steps):
        optimiser.zero_grad()
        model(torch.arange(7)).square().sum().backward()
        optimiser.step()
        scheduler.step()
    return model, optimiser, scheduler


def payload_of(model, optimiser, scheduler, generators=None) -> dict:
    return {
        "model": model.state_dict(),
        "args": {"lr": 0.01, "task": "needle", "eval_lengths": ["2x"], "tie_weights": True},
        "vocab": ["<pad>", "a", "é"],
        "optimiser": optimiser.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "step": 3,
        "random": checkpoint.random_state(generators),
    }


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "ckpt.pt"
    checkpoint.save(path, payload_of(*trained()))
    return path


def refused(path) -> str:
    """The one-line message with which `load` refuses a file."""
    with pytest.raises(UserError) as info:
        checkpoint.load(path)
    text = str(info.value)
    assert "\n" not in text
    assert str(path) in text
    assert "use '" in text or "--overwrite" in text
    return text


def with_digest(archive: bytes) -> bytes:
    """A crafted file: any zip, with its correct digest."""
    assert archive[-2:] == b"\0\0"
    comment = b"sha256:" + hashlib.sha256(archive).hexdigest().encode()
    return archive[:-2] + len(comment).to_bytes(2, "little") + comment


# ---- what comes back


def test_a_checkpoint_comes_back_as_it_was(saved):
    loaded = checkpoint.load(saved)
    model = Tied()
    model.load_state_dict(loaded["model"])
    assert type(loaded["model"]) is dict
    assert loaded["args"] == {"lr": 0.01, "task": "needle", "eval_lengths": ["2x"], "tie_weights": True}
    assert loaded["vocab"] == ["<pad>", "a", "é"]
    assert loaded["step"] == 3
    assert loaded["scaler"] == torch.amp.GradScaler("cpu").state_dict()
    assert loaded["optimiser"]["param_groups"][0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
)
def test_tensors_keep_their_values_and_types(tmp_path, dtype):
    values = torch.arange(24).reshape(4, 6).to(dtype)
    tensors = {
        "whole": values,
        "columns": values.T,
        "part": values[1:3, ::2],
        "none": values[:0],
        "one": values[2, 2],
        "wide": values[:1].expand(3, 6),
    }
    checkpoint.save(tmp_path / "x.pt", {"model": tensors, "args": {}, "vocab": []})
    loaded = checkpoint.load(tmp_path / "x.pt")["model"]
    for name, tensor in tensors.items():
        assert loaded[name].dtype == dtype
        assert torch.equal(loaded[name], tensor), name


def test_plain_torch_and_zipfile_read_the_file(saved):
    mapped = torch.load(saved, weights_only=True, mmap=True)
    assert torch.equal(mapped["model"]["layer.weight"], torch.load(saved, weights_only=True)["model"]["layer.weight"])
    with zipfile.ZipFile(saved) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")


# ---- equal bytes


def test_equal_payloads_give_equal_bytes():
    payload = payload_of(*trained())
    assert checkpoint.to_bytes(payload) == checkpoint.to_bytes(payload) == checkpoint.to_bytes(copy.deepcopy(payload))


def test_what_was_loaded_gives_the_bytes_it_came_from(saved):
    """torch.save alone does not: one string or storage here is two objects after loading."""
    loaded = checkpoint.load(saved)
    model, optimiser, scheduler = trained(0)
    model.load_state_dict(loaded["model"])
    optimiser.load_state_dict(loaded["optimiser"])
    scheduler.load_state_dict(loaded["scheduler"])
    checkpoint.set_random_state(loaded["random"])
    assert checkpoint.to_bytes(payload_of(model, optimiser, scheduler)) == saved.read_bytes()


def test_strings_that_are_equal_but_not_one_object_give_equal_bytes():
    def spelled(word):
        return "".join(list(word))

    one = "needle"
    first = {"model": {}, "args": {"task": one, "name": one}, "vocab": []}
    second = {"model": {}, "args": {"task": one, "name": spelled(one)}, "vocab": []}
    assert checkpoint.to_bytes(first) == checkpoint.to_bytes(second)
    plain = [io.BytesIO(), io.BytesIO()]
    torch.save(first, plain[0])
    torch.save(second, plain[1])
    assert plain[0].getvalue() != plain[1].getvalue()  # what the project's own form is for


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(tmp_path):
    code = (
        "import sys, torch; from src.storage import checkpoint\n"
        "w = torch.arange(12.).reshape(3, 4)\n"
        "model, args = {'w': w, 'tied': w, 'part': w[:, 1]}, {'a': [1, 2.5, None, (True, 'x')]}\n"
        "checkpoint.save(sys.argv[1], {'model': model, 'args': args, 'vocab': list('abc')})"
    )
    for name in ("a.pt", "b.pt"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], cwd=PROJECT, check=True)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_different_payloads_give_different_bytes():
    payload = payload_of(*trained())
    assert checkpoint.to_bytes(payload) != checkpoint.to_bytes({**payload, "step": 4})


def test_tied_weights_are_stored_once(tmp_path):
    weight = torch.randn(200, 100, generator=torch.Generator().manual_seed(0))
    checkpoint.save(tmp_path / "tied.pt", {"model": {"a": weight, "b": weight}, "args": {}, "vocab": []})
    checkpoint.save(tmp_path / "two.pt", {"model": {"a": weight, "b": weight.clone()}, "args": {}, "vocab": []})
    assert (tmp_path / "two.pt").stat().st_size - (tmp_path / "tied.pt").stat().st_size > 80_000
    loaded = checkpoint.load(tmp_path / "tied.pt")["model"]
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()


def test_a_view_is_stored_without_the_rest_of_its_storage(tmp_path):
    checkpoint.save(tmp_path / "x.pt", {"model": {"a": torch.zeros(1_000_000)[:3]}, "args": {}, "vocab": []})
    assert (tmp_path / "x.pt").stat().st_size < 10_000


# ---- what may not be written


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"x", np.zeros(2), Path("x"), [lambda: 0], {("a",): 1}, torch.float32]
)
def test_values_that_are_not_plain_are_refused_with_their_path(tmp_path, value):
    with pytest.raises(TypeError, match="payload"):
        checkpoint.save(tmp_path / "x.pt", {"model": {}, "args": {"odd": value}, "vocab": []})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value", [np.float64(0.5), np.int64(3), np.float32(0.25), np.bool_(True), np.str_("a"), OrderedDict(a=1)]
)
def test_values_of_numpy_and_ordered_dicts_become_plain(tmp_path, value):
    checkpoint.save(tmp_path / "x.pt", {"model": {}, "args": {"v": value}, "vocab": []})
    loaded = checkpoint.load(tmp_path / "x.pt")["args"]["v"]
    assert loaded == value
    assert type(loaded) in (float, int, bool, str, dict)


def test_a_payload_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="lacks model"):
        checkpoint.save(tmp_path / "x.pt", {"args": {}, "vocab": []})


# ---- damage


def test_a_flipped_byte_is_noticed_wherever_it_is(saved):
    data = saved.read_bytes()
    rng = random.Random(3)
    places = {*range(64), *range(len(data) - 400, len(data)), *(rng.randrange(len(data)) for _ in range(300))}
    for at in sorted(places):
        saved.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :])
        refused(saved)
    saved.write_bytes(data)
    assert checkpoint.load(saved)["step"] == 3


def test_plain_torch_does_not_notice_a_flipped_weight(saved):
    """The reason for the digest. If this fails, torch checks the weights itself."""
    data = bytearray(saved.read_bytes())
    weight = torch.load(saved, weights_only=True)["model"]["layer.weight"]
    at = bytes(data).index(weight.numpy().tobytes())
    data[at] ^= 1
    saved.write_bytes(data)
    assert not torch.equal(torch.load(saved, weights_only=True)["model"]["layer.weight"], weight)
    assert "does not match its SHA-256" in refused(saved)


def test_a_truncated_checkpoint_is_noticed(saved):
    data = saved.read_bytes()
    for n in (0, 1, 3, 4, 30, 100, len(data) // 2, len(data) - 73, len(data) - 72, len(data) - 2, len(data) - 1):
        saved.write_bytes(data[:n])
        assert "truncated" in refused(saved), n


def test_something_added_at_the_end_is_noticed(saved):
    saved.write_bytes(saved.read_bytes() + b"\n")
    refused(saved)


def test_a_checkpoint_without_a_digest_is_refused(tmp_path):
    torch.save({"model": {}, "args": {}, "vocab": []}, tmp_path / "ckpt.pt")
    assert "no SHA-256" in refused(tmp_path / "ckpt.pt")


def test_a_missing_checkpoint_and_a_folder_are_clear_errors(tmp_path):
    assert "no such checkpoint" in refused(tmp_path / "ckpt.pt")
    (tmp_path / "ckpt.pt").mkdir()
    assert "cannot be read" in refused(tmp_path / "ckpt.pt")


def test_the_message_names_the_other_checkpoint_only_if_it_is_undamaged(saved):
    best = saved.with_name("best.pt")
    best.write_bytes(saved.read_bytes())
    saved.write_bytes(b"")
    assert str(best) in refused(saved)
    best.write_bytes(best.read_bytes()[:-1])
    assert str(best) not in refused(saved)


# ---- crafted files


class Payload:
    """Creates a file if it is unpickled without weights_only."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def zip_of(pickled: bytes) -> bytes:
    """A torch archive whose data.pkl is any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def crafted(kind: str, mark) -> bytes:
    pickled = pickle.dumps({"model": Payload(mark), "args": {}, "vocab": []}, protocol=2)
    end = b"PK\x05\x06" + bytes(18)
    return {
        "pickle": pickled,
        "zip": zip_of(pickled),
        "zip with digest": with_digest(zip_of(pickled)),
        "pickle with digest": with_digest(pickled + end),
    }[kind]


@pytest.mark.parametrize("kind", ["pickle", "zip", "zip with digest", "pickle with digest"])
def test_a_crafted_file_runs_nothing_and_is_refused(tmp_path, kind):
    (tmp_path / "ckpt.pt").write_bytes(crafted(kind, tmp_path / "mark"))
    text = refused(tmp_path / "ckpt.pt")
    assert "not a checkpoint of this program" in text
    assert "nothing in it was run" in text
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", ["zip", "zip with digest"])
def test_the_crafted_file_is_a_real_one(tmp_path, kind):
    """Without weights_only the payload runs, so the test above can fail."""
    (tmp_path / "ckpt.pt").write_bytes(crafted(kind, tmp_path / "mark"))
    torch.load(tmp_path / "ckpt.pt", weights_only=False)
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("content", [[1, 2], {"weights": 1}, {"model": {1, 2}, "args": {}, "vocab": []}, "text"])
def test_an_undamaged_file_of_other_content_is_refused(tmp_path, content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    (tmp_path / "ckpt.pt").write_bytes(with_digest(buffer.getvalue()))
    assert "not a checkpoint of this program" in refused(tmp_path / "ckpt.pt")


# ---- files that would unpack to more than they are


def rewritten(data: bytes, change, compression=zipfile.ZIP_STORED, twice: str = "") -> bytes:
    """The archive with other content. change: {entry: bytes} -> the same.  twice: an entry to write two times."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in change(entries).items():
            archive.writestr(name, content)
            if name.endswith(twice or "no such entry"):
                archive.writestr(name, content)
    return with_digest(buffer.getvalue())


def bomb(kind: str) -> bytes:
    """A file of some thousand bytes, with its correct digest, that would take more memory than that."""
    large, small = torch.zeros(1_000_000), torch.arange(1_000.0)

    def archive_of(model) -> bytes:
        buffer = io.BytesIO()
        torch.save({"model": model, "args": {}, "vocab": []}, buffer)
        return buffer.getvalue()

    def replaced(old: bytes, new: bytes):
        return lambda entries: {n: c.replace(old, new) if n.endswith("data.pkl") else c for n, c in entries.items()}

    def grown(entries: dict) -> dict:
        """A list of 10 that holds one list of 10 ten times, and so on."""
        laughs: list = [0] * 10
        for _ in range(9):
            laughs = [laughs] * 10
        pickled = pickle.dumps({"model": laughs, "args": {}, "vocab": []}, protocol=2)
        return {n: pickled if n.endswith("data.pkl") else c for n, c in entries.items()}

    allocating = pickle.dumps({"model": {}, "args": bytearray(5), "vocab": []}, protocol=2)
    elements = pickle.dumps(1_000, protocol=2)[2:-1]  # the instruction for the number of elements
    return {
        "compressed entries": lambda: rewritten(archive_of(large), lambda e: e, zipfile.ZIP_DEFLATED),
        "an entry twice": lambda: rewritten(archive_of(small), lambda e: e, twice="data/0"),
        "a tensor of one element, expanded": lambda: with_digest(archive_of(small[:1].clone().expand(10**9))),
        "many views of one storage": lambda: with_digest(archive_of([small[i:] for i in range(20)])),
        "a storage larger than its entry": lambda: rewritten(
            archive_of(small), replaced(elements, pickle.dumps(60_000, protocol=2)[2:-1])
        ),
        "lists of lists of lists": lambda: rewritten(archive_of(small), grown),
        "a call that allocates": lambda: with_digest(zip_of(allocating)),
        "a memo of 2^31 places": lambda: with_digest(zip_of(b"\x80\x02}r\xff\xff\xff\x7f.")),
        "a directory before the directory": lambda: with_digest(b"x" * 100 + archive_of(small)),
    }[kind]()


BOMBS = {
    "compressed entries": "compressed entry",
    "an entry twice": "two entries of one name",
    "a tensor of one element, expanded": "not contiguous",
    "many views of one storage": "share a storage",
    "a storage larger than its entry": "another size than its entry",
    "lists of lists of lists": "refers to one value twice",
    "a call that allocates": "more than plain values",
    "a memo of 2^31 places": "must have model",
    "a directory before the directory": "read in two ways",
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("kind", "reason"), BOMBS.items(), ids=BOMBS)
def test_a_file_that_unpacks_to_more_than_it_is_is_refused_before_torch_reads_it(tmp_path, monkeypatch, kind, reason):
    data = bomb(kind)
    assert len(data) < 100_000
    (tmp_path / "ckpt.pt").write_bytes(data)
    if kind != "a memo of 2^31 places":  # nothing but a dict, in the end
        monkeypatch.setattr(torch, "load", None)
    text = refused(tmp_path / "ckpt.pt")
    assert "not a checkpoint of this program" in text
    assert reason in text


def test_every_kind_of_tensor_and_value_that_is_saved_passes_the_outline(tmp_path):
    dtypes = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64]
    dtypes += [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex128, torch.uint16]
    model = {
        f"{dtype}, {shape}": torch.ones(shape).to(dtype)
        for dtype in dtypes
        for shape in ((), (0,), (3, 0, 2), (4, 1, 3))
    }
    args = {"a": [1, 2**40, -(2**80), 0.5, None, True, (), (1,), (1, 2, 3, 4), [], {}, {"a": {}}], "word": "x" * 300}
    checkpoint.save(tmp_path / "x.pt", {"model": model, "args": args, "vocab": ["é", "é", "x" * 300]})
    loaded = checkpoint.load(tmp_path / "x.pt")
    assert loaded["args"] == args
    assert all(torch.equal(loaded["model"][name], tensor) for name, tensor in model.items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_model_is_refused(tmp_path):
    buffer = io.BytesIO()
    try:
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    except (RuntimeError, AttributeError):
        pytest.skip("this torch makes no such file")
    (tmp_path / "ckpt.pt").write_bytes(with_digest(buffer.getvalue()))
    refused(tmp_path / "ckpt.pt")


# ---- random states


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_numpy_generators_continue_from_their_state(tmp_path, kind):
    generator = np.random.Generator(kind(5))
    generator.integers(0, 10, 3, dtype=np.int32)  # leaves half a word in the buffer, which is state too
    checkpoint.save(
        tmp_path / "x.pt",
        {"model": {}, "args": {}, "vocab": [], "random": checkpoint.random_state({"data": generator})},
    )
    expected = generator.integers(0, 2**31, 9, dtype=np.int32)
    fresh = np.random.Generator(kind(6))
    checkpoint.set_random_state(checkpoint.load(tmp_path / "x.pt")["random"], {"data": fresh})
    assert np.array_equal(fresh.integers(0, 2**31, 9, dtype=np.int32), expected)


def test_torch_generators_continue_from_their_state(tmp_path):
    before = torch.get_rng_state()
    try:
        own = torch.Generator().manual_seed(3)
        state = checkpoint.random_state({"own": own})
        expected = torch.rand(4), torch.rand(4, generator=own)
        checkpoint.set_random_state(state, {"own": own})
        assert torch.equal(torch.rand(4), expected[0])
        assert torch.equal(torch.rand(4, generator=own), expected[1])
    finally:
        torch.set_rng_state(before)


def test_the_global_generators_of_python_and_numpy_continue_from_their_state(tmp_path):
    with kept_random_state():
        seed_all(3)
        random.gauss(0, 1)  # keeps a second value for the next call, which is state too
        np.random.standard_normal()
        payload = {"model": {}, "args": {}, "vocab": [], "random": checkpoint.random_state()}
        checkpoint.save(tmp_path / "x.pt", payload)
        expected = random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist()
        seed_all(4)
        checkpoint.set_random_state(checkpoint.load(tmp_path / "x.pt")["random"])
        assert (random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist()) == expected


def test_a_state_of_an_older_version_leaves_python_and_numpy_alone():
    with kept_random_state():
        state = checkpoint.random_state()
        expected = random.random(), np.random.rand()
        seed_all(4)
        checkpoint.set_random_state(state)
        old = {name: value for name, value in state.items() if name not in ("python", "numpy")}
        checkpoint.set_random_state(old)
        assert (random.random(), np.random.rand()) == expected


def test_one_seed_decides_all_global_generators_and_they_can_be_kept():
    def draw():
        return torch.rand(1).item(), np.random.rand(), random.random()

    with kept_random_state():
        found = []
        for seed in (5, 5, 6, 2**40 + 6):
            seed_all(seed)
            with kept_random_state():
                draw()
            found.append(draw())
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2], strict=True))


def test_a_generator_without_a_saved_state_is_named():
    with pytest.raises(ValueError, match="'order'"):
        checkpoint.set_random_state(checkpoint.random_state(), {"order": np.random.default_rng(0)})


@pytest.mark.gpu
def test_checkpoints_travel_between_cuda_and_cpu(tmp_path):
    weight = torch.arange(6.0, device="cuda")
    state = checkpoint.random_state()
    checkpoint.save(
        tmp_path / "x.pt", {"model": {"w": weight, "tied": weight}, "args": {}, "vocab": [], "random": state}
    )
    expected = torch.rand(4, device="cuda")
    loaded = checkpoint.load(tmp_path / "x.pt", "cuda")
    assert loaded["model"]["w"].is_cuda
    assert torch.equal(loaded["model"]["w"], weight)
    assert not checkpoint.load(tmp_path / "x.pt")["model"]["w"].is_cuda
    checkpoint.set_random_state(loaded["random"])
    assert torch.equal(torch.rand(4, device="cuda"), expected)


# ---- full disk

TOO_BIG = """
import resource, sys, torch
from src.storage import checkpoint
from src.storage.randomness import kept_random_state, seed_all
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try: checkpoint.save(sys.argv[1], {"model": {"w": torch.zeros(100_000)}, "args": {}, "vocab": []})
except OSError as error: print("OSError")
"""


@pytest.mark.skipif(os.name != "posix", reason="resource limits are POSIX's")
def test_a_full_disk_leaves_the_last_checkpoint(saved):
    before = saved.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", TOO_BIG, str(saved)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "OSError\n", done.stderr
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["ckpt.pt"]
