"""What the README and the pages behind it show must run, and what they list must be there."""

import doctest
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import tito
from tito.calls import Flag
from tito.cli import _parser, main

ROOT = Path(__file__).parents[1]
# The README first: the pages go on from its rows.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.stem: page.read_text(encoding="utf-8") for page in PAGES}
ALL = "\n".join(TEXTS.values())
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", ALL, re.S)
    for line in block.splitlines()
    if line.startswith("tito ")
]
# A model of gigabytes stands for those; their settings are read.
TRAINING = [command for command in COMMANDS if command.startswith("tito train") and "--list" not in command]


def test_the_commands_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    assert len(COMMANDS) == 14
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        if command in TRAINING:
            continue
        assert main(shlex.split(command)[1:]) == 0, (command, capsys.readouterr().err)


def test_the_training_commands_name_a_recipe_and_settings_that_there_are():
    from tito.train import TrainConfig

    assert len(TRAINING) == 3
    for command in TRAINING:
        _, _, recipe, *settings = shlex.split(command.removesuffix(" --dry-run"))
        assert TrainConfig.load(recipe, settings).data == "rows.parquet"


EXAMPLES = [line for block in re.findall(r"```json\n(.*?)```", ALL, re.S) for line in block.splitlines()]


def test_the_examples_are_those_that_formats_prints(capsys):
    formats = json.loads(tito._core.formats_json())
    assert [format["example"] for format in formats] == EXAMPLES
    assert main(["formats"]) == 0
    assert capsys.readouterr().out == "\n".join(
        f"{format['name']}: {format['about']}\n{format['example']}\n" for format in formats
    )


@pytest.mark.parametrize(
    ("line", "name"), list(zip(EXAMPLES, ("cooperbench", "calls", "native", "response"), strict=True))
)
def test_the_example_of_every_format_gives_a_row(tmp_path, line, name):
    (tmp_path / "one.jsonl").write_text(line + "\n", encoding="utf-8")
    report = tito.check(tmp_path / "one.jsonl")
    assert (report.rows, report.data["inputs"][0]["format"]) == (1, name)


def test_the_python_runs_where_the_checkout_is(tmp_path, monkeypatch):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    ran = {page.stem: doctest.testfile(str(page), module_relative=False) for page in PAGES}
    assert all(result.failed == 0 for result in ran.values())
    assert {name: result.attempted for name, result in ran.items() if result.attempted} == {"README": 7, "training": 8}


def test_every_column_flag_and_reason_is_told():
    table = TEXTS["formats"].split("## What is written")[1]
    for column in json.loads(tito._core.schema_json())["columns"]:
        assert f"`{column['name']}`" in table
    for flag in Flag:
        assert f"{flag.value} {flag.name.lower()}" in table.replace("\n", " ")


def options():
    [verbs] = [action for action in _parser()._actions if action.dest == "verb"]
    actions = [action for verb in ("convert", "record", "train") for action in verbs.choices[verb]._actions]
    return {option for action in actions for option in action.option_strings}


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[\w-]+)", ALL))))
def test_every_option_it_names_is_there(option):
    assert option in options() | {"--tokenizer"}


def test_every_policy_has_a_row():
    table = TEXTS["policies"].split("## Weights")[0]
    for name in [field.name for field in fields(tito.Policies)] + ["profile", "expect_rows"]:
        assert re.search(rf"`--{name.replace('_', '-')}[` ]", table), name


def test_every_room_it_names_is_there():
    rooms = re.findall(r"^\| `([\w/-]+)` \|", TEXTS["inside"], re.M)
    assert rooms
    for room in rooms:
        assert (ROOT / room).is_dir(), room


def anchors(text):
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_readme_names_every_page_and_stays_short():
    for page in PAGES[1:]:
        assert f"(docs/{page.name})" in TEXTS["README"]
    assert TEXTS["README"].count("\n") < 250
