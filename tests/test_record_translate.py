"""What the Responses and Messages routes say beyond chat: refused by its name at any depth, or told, never dropped."""

import json

import pytest
from tito.capture.record.translate import Messages, Responses
from tito.errors import UsageError

CANNOT = " cannot be translated to chat completions, the only route on which engines return ids"
TOOL = {"name": "bash", "input_schema": {"type": "object"}}
FUNCTION = {"type": "function", "name": "bash", "parameters": {"type": "object"}, "strict": False}
JSON = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}


def spoken(route, **asked):
    return json.loads(route().request(json.dumps(asked).encode()))


def messages(*blocks, role="user", **asked):
    return spoken(Messages, messages=[{"role": role, "content": list(blocks)}], **asked)


def responses(*items, **asked):
    return spoken(Responses, input=list(items) or "q", **asked)


def result(**members):
    return {"type": "tool_result", "tool_use_id": "t0", "content": "a b", **members}


def part(**members):
    return {"role": "user", "content": [members]}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"thinking": {"type": "between_tools"}}, "thinking of type 'between_tools'"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9, "depth": 2}}, "'thinking.depth'"),
        ({"tool_choice": {"type": "best"}}, "the tool choice 'best'"),
        ({"tool_choice": {}, "tools": [TOOL | {"defer_loading": True}]}, "'tools.defer_loading'"),
        ({"tool_choice": {"type": "any", "among": ["bash"]}}, "'tool_choice.among'"),
        ({"tools": [TOOL | {"input_examples": [{}]}]}, "'tools.input_examples'"),
        ({"tools": [TOOL | {"allowed_callers": ["code_execution_20260120"]}]}, "'tools.allowed_callers'"),
        ({"system": [{"type": "text", "text": "a", "weight": 2}]}, "'system.weight'"),
        ({"messages": [{"role": "user", "content": "a", "name": "n"}]}, "'messages.name'"),
        ({"messages": [part(type="text", text="a", weight=2)]}, "'text.weight'"),
        ({"messages": [part(**result(toolset_name="t"))]}, "'tool_result.toolset_name'"),
        ({"messages": [part(**result(content=[{"type": "text", "text": "a", "weight": 2}]))]}, "'tool_result.weight'"),
        ({"messages": [part(type="tool_use", id="t", name="n", caller={"type": "program"})]}, "'tool_use.caller'"),
        ({"messages": [part(type="thinking", thinking="a", weight=2)]}, "'thinking.weight'"),
        ({"messages": [part(type="image", source={}, transformations={"a": 1})]}, "'image.transformations'"),
        ({"messages": [part(type="image", source={"type": "url", "url": "u", "a": 1})]}, "'image.source.a'"),
    ],
)
def test_what_chat_cannot_say_in_a_message_is_refused_by_its_name(asked, told):
    with pytest.raises(UsageError) as refused:
        spoken(Messages, **{"messages": []} | asked)
    assert str(refused.value) == told + CANNOT


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"text": {"verbosity": "low"}}, "'text.verbosity'"),
        ({"text": {"format": {"type": "grammar"}}}, "the text format 'grammar'"),
        ({"text": {"format": JSON | {"depth": 2}}}, "'text.format.depth'"),
        ({"reasoning": {"effort": "low", "mode": "pro"}}, "'reasoning.mode'"),
        ({"reasoning": {"context": "current_turn"}}, "'reasoning.context'"),
        ({"tools": [FUNCTION], "tool_choice": "best"}, "the tool choice 'best'"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools"}}, "the tool choice 'allowed_tools'"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "bash", "a": 1}}, "'tool_choice.a'"),
        ({"tool_choice": "required"}, "a tool that must be called, and no tools,"),
        ({"tools": [FUNCTION | {"output_schema": {}}]}, "'tools.output_schema'"),
        ({"input": [{"role": "user", "content": "a", "phase": "commentary"}]}, "'message.phase'"),
        ({"input": [{"type": "function_call", "name": "n", "namespace": "a"}]}, "'function_call.namespace'"),
        ({"input": [{"type": "function_call_output", "output": "a", "b": 1}]}, "'function_call_output.b'"),
        ({"input": [{"type": "reasoning", "encrypted_content": "a"}]}, "'reasoning.encrypted_content'"),
        ({"input": [part(type="input_text", text="a", weight=2)]}, "'input.weight'"),
        ({"input": [part(type="input_image", image_url="u", file_id="f")]}, "'input_image.file_id'"),
    ],
)
def test_what_chat_cannot_say_in_a_response_is_refused_by_its_name(asked, told):
    with pytest.raises(UsageError) as refused:
        spoken(Responses, **{"input": "q"} | asked)
    assert str(refused.value) == told + CANNOT


@pytest.mark.parametrize(
    ("route", "asked"),
    [
        (Messages, {"messages": [], "tool_choice": {"type": "tool"}}),
        (Responses, {"input": "q", "tools": [FUNCTION], "tool_choice": {"type": "function"}}),
    ],
)
def test_a_tool_that_must_be_called_has_a_name(route, asked):
    with pytest.raises(UsageError) as refused:
        spoken(route, **asked)
    assert str(refused.value) == "tool_choice: None is no name of a tool"


def test_a_tool_that_failed_is_told_to_the_model():
    told = [messages(result(**members))["messages"][0]["content"] for members in ({}, {"is_error": False})]
    assert told == ["a b", "a b"]
    assert messages(result(is_error=True))["messages"][0]["content"] == "Error: a b"


def test_what_clients_send_of_messages_unasked_passes():
    cached = {"cache_control": {"type": "ephemeral"}}
    tool = TOOL | cached | {"type": None, "strict": True, "eager_input_streaming": True, "defer_loading": False}
    chat = spoken(
        Messages,
        system=[{"type": "text", "text": "a", **cached}],
        tools=[tool | {"allowed_callers": ["direct"]}],
        tool_choice={"type": "tool", "name": "bash", "disable_parallel_tool_use": True},
        thinking={"type": "adaptive", "display": "summarized"},
        metadata={"user_id": "u"},
        container=None,
        messages=[
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "b", "citations": None},
                    {"type": "tool_use", "id": "t0", "name": "bash", "input": {}, "caller": {"type": "direct"}},
                ],
            },
            {"role": "user", "content": [result(is_error=False, **cached)]},
        ],
    )
    function = {"name": "bash", "parameters": {"type": "object"}}
    assert chat["tools"] == [{"type": "function", "function": function | {"strict": True}}]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "bash"}}
    assert chat["parallel_tool_calls"] is False
    assert chat["chat_template_kwargs"] == {"enable_thinking": True}
    assert [message["content"] for message in chat["messages"]] == ["a", "b", "a b"]


def test_what_clients_send_of_responses_unasked_passes():
    item = {"id": "i", "status": "completed"}
    text = {"type": "output_text", "text": "b", "annotations": [], "logprobs": []}
    image = {"type": "input_image", "image_url": "u", "detail": "auto", "file_id": None}
    cached = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    chat = responses(
        {"type": "reasoning", **item, "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": None},
        {"type": "message", "role": "assistant", **item, "phase": None, "content": [text]},
        {"type": "function_call", "call_id": "t0", "name": "bash", "arguments": "{}", **item},
        {"type": "function_call_output", "call_id": "t0", "output": "c", **item},
        part(**image, **cached),
        part(type="input_text", text="d", **cached),
        tools=[FUNCTION | {"defer_loading": False, "output_schema": None}],
        tool_choice={"type": "function", "name": "bash"},
        reasoning={"effort": "high", "summary": "auto", "context": "auto"},
        text={"verbosity": "medium", "format": JSON | {"strict": True, "description": None}},
        include=["reasoning.encrypted_content"],
    )
    assert chat["reasoning_effort"] == "high"
    assert chat["response_format"]["json_schema"] == {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "bash"}}
    said, told, seen, asked = chat["messages"]
    assert (said["content"], said["reasoning"], said["tool_calls"][0]["id"]) == ("b", "hm", "t0")
    assert told["content"] == "c"
    assert seen["content"] == [{"type": "image_url", "image_url": {"url": "u", "detail": "auto"}}]
    assert asked["content"] == "d"
    assert "tool_choice" not in responses(tool_choice="auto", text={"format": {"type": "text"}})
