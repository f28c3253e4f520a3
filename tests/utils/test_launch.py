"""What torchrun says in the environment: a place among the processes, or one line that says what is missing.

python -m pytest tests/utils/test_launch.py
"""

import pytest

from src.flags.fields import UserError
from src.utils.launch import Place, alone, check_address, launched, launcher

TWO = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def single(monkeypatch):
    """The tests begin as one process, also under torchrun."""
    for name in TWO:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, Place()),
        ({"WORLD_SIZE": "", "RANK": "", "LOCAL_RANK": ""}, Place()),
        ({"WORLD_SIZE": "1", "RANK": "0"}, Place()),
        ({"RANK": "3"}, Place()),
        ({"RANK": ""}, Place()),
        (TWO, Place(1, 2, 1)),
        ({**TWO, "LOCAL_RANK": ""}, Place(1, 2, 0)),
    ],
    ids=str,
)
def test_the_place_of_a_process(environ, place):
    assert launched(environ) == place


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"RANK": None}, "WORLD_SIZE: got 2, but RANK not set"),
        ({"RANK": "", "MASTER_ADDR": ""}, "WORLD_SIZE: got 2, but RANK and MASTER_ADDR not set"),
        ({"MASTER_PORT": None}, "but MASTER_PORT not set"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT: got 'x'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: got 'two', allowed: a whole number from 1 to"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: got '0'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE: got '-2'"),
        ({"RANK": "2"}, "RANK: got 2, allowed: 0 to 1"),
        ({"RANK": "-1"}, "RANK: got '-1'"),
        ({"LOCAL_RANK": "?"}, r"LOCAL_RANK: got '\?'"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK: got 2, allowed: 0 to 1"),
        ({"RANK": "abc"}, "RANK: got 'abc'"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT: got '99999', allowed: a whole number from 0 to 65535"),
        ({"WORLD_SIZE": "9" * 26}, "WORLD_SIZE: got '9+', allowed: a whole number from 1 to 100000"),
        ({"WORLD_SIZE": "9" * 5_000}, "WORLD_SIZE: got '9{40}', allowed"),
    ],
    ids=str,
)
def test_variables_that_do_not_fit_are_a_user_error(changes, reason):
    environ = {name: value for name, value in {**TWO, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=reason) as caught:
        launched(environ)
    assert "torchrun" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"WORLD_SIZE": "1"}, ["python"]),
        ({}, ["torchrun", "--nproc_per_node", "2"]),
        ({"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"}, ["torchrun", "--nproc_per_node", "2"]),
        (
            {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"},
            ["torchrun", "--nnodes", "2", "--nproc_per_node", "4"],
        ),
    ],
    ids=str,
)
def test_a_run_is_continued_with_as_many_processes(changes, words):
    assert launcher({**TWO, **changes}) == words


def test_a_process_that_is_alone_starts_single_ones():
    environ = {**TWO, "HOME": "/"}
    alone(environ)
    assert launched(environ) == Place()
    assert environ["HOME"] == "/"


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["list", "--presets"], ["check", "--help"], ["generate", "--help"]], ids=" ".join
)
def test_a_command_for_one_process_prints_on_rank_0_only(main, monkeypatch, arguments):
    for rank in (1, 0):
        for name, value in {**TWO, "RANK": str(rank)}.items():
            monkeypatch.setenv(name, value)
        code, out, err = main(*arguments)
        assert bool(out + err) == (rank == 0)
        assert code == (2 if rank == 0 and not arguments else 0)


@pytest.mark.parametrize("words", ["--vis_only --out_dir r", "study --nothing", "speed --model x", "check --model x"])
def test_a_command_for_one_process_runs_on_rank_0_only(main, monkeypatch, words):
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    assert main(*words.split()) == (0, "", "")
    monkeypatch.setenv("RANK", "0")
    code, _, err = main(*words.split())
    assert (code, err.count("\n")) == (2, 1)
    assert launched() == Place(), "the processes that it starts are single ones"


@pytest.mark.parametrize("arguments", [["list"], ["--task", "copy", "--model", "gru"]], ids=" ".join)
def test_world_size_without_rank_is_one_line(main, monkeypatch, tmp_path, arguments):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = main(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: WORLD_SIZE: got 2, but RANK")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_rank_does_not_hide_an_error(main, monkeypatch):
    monkeypatch.setenv("RANK", "")
    assert main("nonsense")[0] == 2
    monkeypatch.setenv("RANK", "3")  # without WORLD_SIZE, so this is the only process
    assert "unknown command" in main("nonsense")[2]


@pytest.mark.parametrize("host", ["no host has spaces", "x" * 300, ""])
def test_an_address_that_no_machine_has_is_a_user_error(host):
    """torch would ask for it again and again, until its timeout of hours. No name server is asked here."""
    check_address(TWO)
    if host:
        with pytest.raises(UserError, match="MASTER_ADDR: got"):
            check_address({**TWO, "MASTER_ADDR": host})
