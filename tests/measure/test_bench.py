"""`bench`: rows, resuming, the table, and what it says against a record. Nothing is really timed here.

python -m pytest tests/measure/test_bench.py
python -m pytest tests/measure/test_bench.py -m slow -s       # the functions behind the items, shortened
"""

import json
from pathlib import Path

import pytest
from conftest import ROOT

from src.flags.fields import UserError
from src.measure.bench import items, pieces, table, verdict, wholes
from src.measure.bench.items import COLUMNS, ITEMS, METRICS, Item
from src.measure.bench.run import row_of, rows_of
from src.storage.record import Record
from src.storage.rows import to_jsonl
from src.utils import load

MACHINE = {"device": "cpu: AMD EPYC", "settings": {"cores": 2}, "versions": {}}
STEADY = [10.0, 10.1, 9.9, 10.05, 9.95, 10.0]


def made(metric="recipe_step_ms", values=STEADY, column="here", **more) -> dict:
    """A row of a metric."""
    return row_of(metric, list(values), {"panel": "step", "form": column, **MACHINE, **more})


def planted(column, folder) -> dict:
    """What an item of the tests measures."""
    return {"recipe_step_ms": STEADY, "decode_256_per_s": [1000.0] * 6}


def broken(column, folder) -> dict:
    raise RuntimeError("out of memory\nmore")


@pytest.fixture
def two_items(monkeypatch):
    """The command with two items that take no time; returns what was called."""
    called = []
    here = {name: Item(name, name, "", 1.0, rounds=1) for name in ("step", "decode")}
    for name, item in here.items():
        monkeypatch.setitem(items.ITEMS, name, item)
    for name in set(ITEMS) - set(here):
        monkeypatch.delitem(items.ITEMS, name)

    def call(self, column, folder):
        called.append((self.name, column))
        return planted(column, folder) if self.name == "step" else {"decode_1000_per_s": [900.0] * 6}

    monkeypatch.setattr(Item, "call", call)
    monkeypatch.setattr(table, "RECORD", ROOT / "no such record")
    return called


def test_every_item_and_metric_has_a_function_and_a_unit():
    for item in ITEMS.values():
        room = {items.WHOLES: wholes, items.PIECES: pieces}[item.function.partition(":")[0]]
        assert callable(getattr(room, item.function.partition(":")[2]))
        assert set(item.columns) <= set(COLUMNS)
    assert all(metric.unit and metric.words for metric in METRICS.values())
    assert set(table.IN_PAGE) <= set(METRICS)


def test_the_whole_command_is_planned_for_less_than_ten_minutes():
    assert sum(item.expected(tuple(COLUMNS)) for item in ITEMS.values()) < 600
    assert ITEMS["scan"].expected(("laptop",)) == 0


def test_the_time_left_is_that_of_the_items(two_items, main, monkeypatch):
    """It keeps out: a minute for each item, whatever it is."""
    monkeypatch.setitem(items.ITEMS, "decode", Item("decode", "decode", "", 100.0, rounds=2))
    assert "[1/2] step: about 6:42 left" in main("bench", "--out_dir", "R")[2]


def test_a_slower_figure_is_named_with_its_interval_and_an_equal_one_is_not():
    slow = made(values=[1.3 * v for v in STEADY])
    (line,) = verdict.compared([slow, made("recipe_step_one_ms")], [made(), made("recipe_step_one_ms")])
    assert line.startswith(
        "slower than the record: training step of the recipe, two threads (recipe_step_ms, here): 13 ms"
    )
    assert "1.30 x [1.16, 1.46]" in line
    assert verdict.compared([made()], [made()]) == ["nothing is slower than the record (1 figures)"]
    assert "nothing is slower" in verdict.compared([made(values=[0.5 * v for v in STEADY])], [made()])[0]


def test_fewer_tokens_per_second_are_slower():
    fewer, more = made("decode_256_per_s", [800.0] * 6), made("decode_256_per_s", [1000.0] * 6)
    assert "1.25 x" in verdict.compared([fewer], [more])[0]
    assert "nothing is slower" in verdict.compared([more], [fewer])[0]


def at_levels(levels, monkeypatch) -> dict:
    """The row of an item whose rounds are processes at these levels, with repeats that are nearly equal in each."""
    left = iter(levels)

    def call(self, column, folder):
        level = next(left)
        return {"recipe_step_ms": [level * (1 + i / 1e4) for i in range(60)]}

    monkeypatch.setattr(Item, "call", call)
    (row,) = rows_of(Item("step", "", "", 1.0, rounds=len(levels)), ("here",), MACHINE)
    return row


@pytest.mark.parametrize(
    ("levels", "is_slow"),
    [((44.0, 41.0, 45.0, 43.0, 42.0), False), ((45.0, 47.0), False), ((49.0, 50.0, 51.0, 52.0, 53.0), True)],
)
def test_a_round_is_the_unit_because_the_steps_of_one_process_are_alike(levels, is_slow, monkeypatch):
    """It keeps out: 60 equal steps counted as 60 proofs, so a process that was slow by chance was a slower program."""
    record = at_levels((40.0, 42.0, 41.0, 39.0, 43.0), monkeypatch)
    assert record["n"] == len(record["values"]) == 5
    assert table.table([record])[-1] == "| training step of the recipe, two threads | 41.1 ms [39.1, 43.1] | - |"
    (line,) = verdict.compared([at_levels(levels, monkeypatch)], [record])
    assert line.startswith("slower") == is_slow


@pytest.mark.parametrize(("seconds", "is_slow"), [(108.0, False), (112.0, True)])
def test_one_repeat_must_be_ten_percent_slower(seconds, is_slow):
    lines = verdict.compared([made("main_job_s", [seconds])], [made("main_job_s", [100.0])])
    assert lines[0].startswith("slower") == is_slow


def test_noise_within_its_interval_is_not_called_slower():
    noisy = [8.0, 9.0, 10.0, 11.0, 12.0, 13.0]
    assert "nothing is slower" in verdict.compared([made(values=[1.05 * v for v in noisy])], [made(values=noisy)])[0]


def test_another_machine_and_no_record_are_one_line():
    other = made(**{"settings": {"cores": 8}})
    (line,) = verdict.compared([made(values=[99.0] * 6)], [other])
    assert "another machine (cpu: AMD EPYC, 8 cores; this one: cpu: AMD EPYC, 2 cores)" in line
    assert verdict.compared([made()], []) == ["no record to compare with; --update makes this run the record"]


def test_a_round_is_one_value_and_the_columns_take_turns(monkeypatch):
    seen = []
    monkeypatch.setattr(Item, "call", lambda self, column, folder: seen.append(column) or planted(column, folder))
    rows = rows_of(Item("step", "", "", 1.0, rounds=2), ("here", "laptop"), MACHINE)
    assert seen == ["here", "laptop", "here", "laptop"]
    assert [(r["metric"], r["form"], r["n"]) for r in rows[:2]] == [
        ("recipe_step_ms", "here", 2),
        ("decode_256_per_s", "here", 2),
    ]


def test_a_column_that_fails_is_a_row_that_says_so(monkeypatch):
    def call(self, column, folder):
        return broken(column, folder) if column == "laptop" else planted(column, folder)

    monkeypatch.setattr(Item, "call", call)
    *good, bad = rows_of(Item("step", "", "", 1.0), ("here", "laptop"), MACHINE)
    assert {row["status"] for row in good} == {"ok"}
    assert (bad["form"], bad["status"], bad["note"]) == ("laptop", "failed", "out of memory")


def test_the_command_measures_shows_and_continues(two_items, main):
    code, out, _ = main("bench", "--only", "step", "--columns", "here", "--out_dir", "R")
    assert code == 0, out
    assert two_items == [("step", "here")]
    assert "| training step of the recipe, two threads | 10 ms | - |" in out
    assert "no record to compare with" in out
    assert main("bench", "--only", "step", "--columns", "here", "--out_dir", "R")[0] == 0
    assert two_items == [("step", "here")]  # nothing is measured twice
    code, out, err = main("bench", "--out_dir", "R")
    assert (code, out) == (2, "")
    assert "was begun with" in err


def test_an_interrupt_keeps_what_was_measured(two_items, main, monkeypatch):
    call = Item.call

    def interrupted(self, column, folder):
        if self.name == "decode":
            raise KeyboardInterrupt
        return call(self, column, folder)

    monkeypatch.setattr(Item, "call", interrupted)
    code, _, err = main("bench", "--out_dir", "R", "--quiet")
    assert code == 130
    assert "4 rows are kept" in err
    monkeypatch.setattr(Item, "call", call)
    assert main("bench", "--out_dir", "R", "--quiet")[0] == 0
    assert two_items == [("step", "here"), ("step", "laptop"), ("decode", "here"), ("decode", "laptop")]


def test_an_item_that_failed_is_measured_again_and_the_others_are_not(two_items, main, monkeypatch):
    """It keeps out: a failure that counted as done, so that no second command could repair the folder."""
    call = Item.call
    monkeypatch.setattr(Item, "call", lambda *given: call(*given) if given[0].name == "step" else broken(*given[1:]))
    code, _, err = main("bench", "--columns", "here", "--out_dir", "R", "--quiet")
    assert (code, err) == (1, "error: decode, here: out of memory\n")
    monkeypatch.setattr(Item, "call", call)
    assert main("bench", "--columns", "here", "--out_dir", "R", "--quiet")[0] == 0
    assert two_items == [("step", "here"), ("decode", "here")]
    rows = Record.of("R", "bench").read_rows()
    assert [(row["panel"], row["status"]) for row in rows] == [("step", "ok"), ("step", "ok"), ("decode", "ok")]


def test_a_doctored_record_makes_the_command_say_slower(two_items, main, tmp_path):
    assert main("bench", "--only", "step", "--columns", "here", "--out_dir", "R", "--quiet")[0] == 0
    rows = [json.loads(line) for line in open("R/results.jsonl")]
    for row in rows:
        row["values"] = [v / 2 if row["unit"] == "ms" else v for v in row["values"]]
    record = tmp_path / "results.jsonl"
    record.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = main("bench", "--only", "step", "--columns", "here", "--out_dir", "S", "--record", record, "--quiet")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["slower than the record", "S"]


def test_a_figure_of_a_record_that_is_not_measured_any_more_is_left_out(tmp_path, monkeypatch):
    """It keeps out: a record made unreadable by a metric less."""
    record = tmp_path / "results.jsonl"
    record.write_bytes(to_jsonl([made(), made("many_gain", [1.4])]))
    monkeypatch.delitem(METRICS, "many_gain")
    assert [row["metric"] for row in table.read_record(record)] == ["recipe_step_ms"]


@pytest.mark.parametrize("text", ["{}", "[1", '{"schema": 1}'])
def test_a_damaged_record_is_one_line(text, two_items, main, tmp_path):
    record = tmp_path / "results.jsonl"
    record.write_text(text + "\n")
    code, out, err = main("bench", "--out_dir", "R", "--record", record)
    assert (code, out) == (2, "")
    assert "is no record of `bench`" in err
    assert two_items == []


@pytest.mark.parametrize(
    "words",
    [
        ("--only", "stpe"),
        ("--columns", "gpu"),
        ("--columns", ""),
        ("--only", "step,decode", "--columns", "laptop"),  # decode is measured here only
        ("--record", "nothing"),
        ("--update", "--only", "step"),
    ],
)
def test_wrong_words_are_one_line_and_nothing_is_measured(words, two_items, main, monkeypatch):
    monkeypatch.setitem(items.ITEMS, "decode", Item("decode", "decode", "", 1.0, columns=("here",)))
    code, out, err = main("bench", *words, "--out_dir", "R")
    assert (code, out) == (2, "")
    assert err.startswith("error: --")
    assert err.count("\n") == 1
    assert two_items == []
    assert not Path("R").exists()


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page and a place for a record, which --update writes instead of those of the project; returns the page."""
    page = tmp_path / "README.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(table, "PAGE", page)
    monkeypatch.setattr(table, "RECORD", tmp_path / "benchmarks/results.jsonl")
    return page


@pytest.fixture
def others(tmp_path, monkeypatch):
    """Call it with how many processors other programs use from now on."""
    file = tmp_path / "loadavg"
    monkeypatch.setattr(load, "LOADAVG", file)
    monkeypatch.setattr(load, "PAUSE_SECONDS", 0)
    return lambda n: file.write_text(f"0.00 0.00 0.00 {1 + n}/99 2911\n")


def test_update_writes_the_record_and_the_table_of_the_page(two_items, page, main):
    assert main("bench", "--update", "--out_dir", "R", "--quiet")[0] == 0
    rows = table.read_record(table.RECORD)
    assert len(rows) == 6
    assert all(row["clock"].startswith("perf_counter; CPU ") for row in rows)
    text = page.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\n| on cpu: ")
    assert text.endswith(f"{table.END}\nafter\n")
    assert text == table.with_table(text, rows)
    assert text != table.with_table(text, [{**rows[0], "value": 77.0}, *rows[1:]])  # the test of the README would fail


def test_update_on_a_busy_machine_is_refused_before_anything_is_measured(two_items, page, others, main):
    others(2)
    code, out, err = main("bench", "--update", "--out_dir", "R")
    assert (code, out) == (2, "")
    assert err.startswith("error: --update: got a machine of which other programs use 2.0 processors, allowed: at most")
    assert two_items == []
    assert not Path("R").exists()


def test_update_is_refused_before_anything_is_measured_where_it_cannot_be_written(two_items, page, main, monkeypatch):
    """It keeps out: nine minutes of measuring before a page without markers is noticed."""
    monkeypatch.setattr(table, "RECORD", page / "results.jsonl")  # a file is where the folder should be
    code, out, err = main("bench", "--update", "--out_dir", "R")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: --update: '{table.RECORD}' cannot be written")
    monkeypatch.setattr(table, "RECORD", page.with_name("results.jsonl"))
    page.write_text("no markers")
    code, out, err = main("bench", "--update", "--out_dir", "R")
    assert (code, out) == (2, "")
    assert err.startswith("error: README.md: no line '<!-- bench -->'")
    assert two_items == []
    assert not Path("R").exists()


def test_what_was_measured_beside_other_programs_is_no_record_until_it_is_measured_again(
    two_items, page, others, main, monkeypatch
):
    """It keeps out: a record 'on a quiet machine' that had dropped the load of its machine."""
    call = Item.call
    monkeypatch.setattr(Item, "call", lambda self, *given: (others(self.name == "decode"), call(self, *given))[1])
    others(0)
    code, _, err = main("bench", "--update", "--out_dir", "R", "--quiet")
    assert code == 1
    assert err.startswith("error: --update: the record is unchanged, because other programs used up to 1.0 processors ")
    assert "beside decode; on a quiet machine this measures them again: " in err
    assert "notice: these figures may be too slow" in main("bench", "--out_dir", "R", "--quiet")[2]
    assert "old" in page.read_text()
    assert not table.RECORD.exists()
    monkeypatch.setattr(Item, "call", call)
    others(0)
    assert main("bench", "--update", "--out_dir", "R", "--quiet")[0] == 0
    assert [name for name, _ in two_items] == ["step", "step", "decode", "decode", "decode", "decode"]
    assert {row["settings"]["others"] for row in table.read_record(table.RECORD)} == {0.0}


def test_the_table_of_the_readme_is_that_of_the_record():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == table.with_table(text, table.read_record())


def test_a_page_without_markers_is_refused():
    with pytest.raises(UserError, match="<!-- bench -->"):
        table.with_table("nothing", [])


KERNEL = """
import numba
from numba.core.registry import cpu_target

@numba.njit("void(f4[::1])", error_model="numpy")
def double(x):
    for i in range(x.size):
        x[i] *= numba.f4(2)

(assembly,) = double.inspect_asm().values()
print("zmm" in assembly, *cpu_target.target_context.codegen().magic_tuple()[1:])
"""


@pytest.mark.skipif(not items.IS_X86, reason="the column has AVX2 at most, which is a matter of x86")
def test_no_kernel_of_the_laptop_uses_avx_512():
    """It keeps out: torch alone held to AVX2. numba keys its cache with what is printed last, so none is shared."""
    assert wholes.process(["-c", KERNEL], COLUMNS["laptop"])[1] == "False haswell +avx2,+fma\n"


def test_a_process_that_fails_says_its_last_line():
    with pytest.raises(RuntimeError, match="lr is wrong"):
        wholes.process(["-c", "import sys; sys.exit('error: lr is wrong')"], {})
    assert wholes.process(["-c", "print(7)"], {})[1] == "7\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step", "mixer", "scan", "decode"])
def test_parts_are_measured(name, monkeypatch):
    monkeypatch.setitem(pieces.REPEATS, name, 2)
    found = pieces.FUNCTIONS[name](1, "fp32")
    assert set(found) <= set(METRICS)
    assert all(len(values) >= 2 and min(values) > 0 for values in found.values())


@pytest.mark.slow
def test_whole_commands_are_measured(tmp_path):
    found = {**wholes.many("here", tmp_path), **wholes.start("here", tmp_path)}
    print({name: [round(v, 1) for v in values] for name, values in found.items()})
    assert set(found) <= set(METRICS)
