"""Tool calls in text: what each parser reads, and what it leaves."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tito.serve.parsers import PARSERS, Parsed, ToolCall, matrix, surface_form

HERMES = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'
CODER = "<tool_call>\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>\n</tool_call>"
FENCE = "```bash\nls\n```"
JSON = '{"type": "tool_call", "name": "bash", "args": {"command": "ls"}}'
FORMS = {"hermes": HERMES, "qwen3_coder": CODER, "fence": FENCE, "json": JSON}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("parser", PARSERS)
def test_each_parser_reads_its_own_form_alone(form, parser):
    found = PARSERS[parser](FORMS[form])
    if form == parser:
        assert found.calls == (ToolCall("bash", {"command": "ls"}),)
        assert surface_form(FORMS[form]) == form
    else:
        assert found == Parsed(FORMS[form])


@given(st.lists(st.tuples(st.from_regex(r"\w+", fullmatch=True), st.dictionaries(st.text(), st.text())), max_size=3))
def test_calls_of_the_json_form_come_back(calls):
    text = "".join(f"<tool_call>\n{json.dumps({'name': n, 'arguments': a})}\n</tool_call>\n" for n, a in calls)
    found = PARSERS["hermes"](text)
    # A tag inside an argument ends the call there, in vLLM too.
    if not any("<tool_call>" in json.dumps(a) or "</tool_call>" in json.dumps(a) for _, a in calls):
        assert [(c.name, c.arguments) for c in found.calls] == calls


PLAIN = st.text().filter(
    lambda t: not any(tag in t for tag in ("<parameter=", "</parameter>", "</function>", "<function="))
)


@given(st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), PLAIN, max_size=3))
def test_calls_of_the_xml_form_come_back(arguments):
    inside = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in arguments.items())
    text = f"First.\n<tool_call>\n<function=edit>\n{inside}</function>\n</tool_call>"
    assert PARSERS["qwen3_coder"](text) == Parsed("First.\n", (ToolCall("edit", arguments),))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("<tool_call>\n{broken}\n</tool_call>", "broken"),
        ('<tool_call>\n{"name": "bash"}\n</tool_call>', "broken"),
        ("```bash\nls\n```\nand\n```bash\npwd\n```", "broken"),
        ("```python\nx\n```", "broken"),
        ("plain", "none"),
        ("", "none"),
        ('{"type": "final", "name": "x", "args": {}}', "none"),
        ('<tool_call>\n{"name": "bash", "arguments": {}}', "hermes"),
        ('{"name": "bash", "arguments": {}}', "json"),
    ],
)
def test_forms_at_the_edges(text, form):
    assert surface_form(text) == form


def test_the_matrix_counts_replies():
    assert matrix([HERMES, HERMES, FENCE, "hello"]) == {
        "hermes": {"replies": 2, "hermes": 2, "qwen3_coder": 0, "fence": 0, "json": 0},
        "fence": {"replies": 1, "hermes": 0, "qwen3_coder": 0, "fence": 1, "json": 0},
        "none": {"replies": 1, "hermes": 0, "qwen3_coder": 0, "fence": 0, "json": 0},
    }
