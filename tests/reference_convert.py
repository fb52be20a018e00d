"""The whole conversion, written slowly in plain Python: what `tests/reference.py` is for the think rules.

`convert(files, options, profiles)` takes (name, bytes) pairs and gives {"rows", "val", "skipped", "tokens",
"calls_seen", "calls_used"}. Python's own JSON reader reads everything, every prompt is a list, and nothing is
remembered between two prompts. Where the run would fail as a whole (two tokenizers, a rule that matches nothing) the
twin does not care: it says what rows there would be under `bad: skip`. Options are those of `_core.defaults_json()`.
"""

import json
from datetime import UTC, datetime

import reference
import reference_weights

TRUNCATED, PROMPT_EXACT, THINK_STRIPPED, THINK_ABSENT = 1, 2, 4, 8
THINK_UNTERMINATED, THINK_ODD, OPEN_THINK_TAIL = 16, 32, 64
RETRIED, COPIED, THINK_MASKED, SPLIT_MARKER, PROMPT_TRIMMED = 256, 512, 1024, 2048, 4096

FAILED = ("abort", "error", "repetition", "content_filter")

TOKENS = (
    "sampled",
    "trained",
    "think_cut",
    "think_masked",
    "truncated_masked",
    "ambiguous_masked",
    "skipped",
    "prompt",
)

# Reading


def convert(files, options, profiles, rewards=None):
    """`profiles` are the built-in ones unless options["profile"] is one; `rewards` are by folder (eval.json)."""
    calls, skipped, seen = read(files, rewards)
    rows, tokens = [], dict.fromkeys(TOKENS, 0)
    used, made, val = 0, [], []
    for number, rollout in enumerate(rollouts_of(calls)):
        arrange(rollout)
        for call in rollout:
            row = row_of(call, rollout, options, profiles)
            if isinstance(row, str):
                skipped.append((row, len(call["output"] or [])))
                continue
            known = {"rollout": number, "task": row["task_id"], "name": call["name"], "row": row}
            made.append({**known, "weight": weigh(row, rollout, options), "trained": row["tokens"]["trained"]})
    reference_weights.settle(made, options)
    for entry in made:
        row, weight, as_copies = entry["row"], float(entry["weight"]), options["upweight_as"] == "copies"
        copies = int(weight) if as_copies and entry["side"] == "train" else 1
        if copies == 0:
            skipped.append(("not_drawn", row["tokens"]["sampled"]))
            continue
        used += 1
        for key, n in row.pop("tokens").items():
            tokens[key] += n
        row["weight"] = 1.0 if as_copies else weight
        side = rows if entry["side"] == "train" else val
        side += [{**row, "flags": row["flags"] | (COPIED if n else 0)} for n in range(copies)]
    counts = count_skipped(skipped, tokens)
    return {"rows": rows, "val": val, "skipped": counts, "tokens": tokens, "calls_seen": seen, "calls_used": used}


def count_skipped(skipped, tokens):
    """(reason, sampled ids) pairs by reason; the ids are added to `tokens`."""
    counts = {}
    for reason, sampled in skipped:
        counts[reason] = counts.get(reason, 0) + 1
        tokens["sampled"] += sampled
        tokens["skipped"] += sampled
    return counts


def read(files, rewards=None):
    """(calls, (reason, sampled ids) of records that hold none, how many of both)."""
    calls, skipped, seen = [], [], 0
    for name, data in files:
        for number, record in records(data):
            if isinstance(record, str):
                skipped.append((record, 0))
                seen += 1
                continue
            origin = {"file": name, "record": number, "document": is_document(data), "folder": folder_of(name)}
            found = read_record(record, sniffed(files, name), origin, rewards or {})
            if found is None:
                skipped.append(("unknown_record", 0))
                seen += 1
            else:
                calls += found
    seen += len(calls)
    tell_repeats(calls)
    return calls, skipped, seen


def text_of(data):
    return data.decode("utf-8", "replace").removeprefix("\ufeff")


def loads(text):
    return json.loads(text, strict=False)


def is_json(text):
    try:
        loads(text)
    except ValueError:
        return False
    return True


def lines_of(text):
    return [(number, line.strip(" \t\r\n")) for number, line in enumerate(text.split("\n"), 1)]


def is_stream(text):
    return text.lstrip().startswith(("data:", "event:", ": "))


def is_document(data):
    """A file that holds one value, over however many lines."""
    text = text_of(data)
    return not is_stream(text) and is_json(text)


def records(data):
    """(number, value) of each record; a value that is a str is the reason why there is none."""
    text = text_of(data)
    if is_stream(text):
        parts = text.split("data: [DONE]")
        return [(n, {"stream": part}) for n, part in enumerate(parts, 1) if part.strip()]
    if is_document(data):
        value = loads(text)
        return list(enumerate(value, 1)) if isinstance(value, list) else [(1, value)]
    found = []
    for number, line in lines_of(text):
        if not line:
            continue
        try:
            value = loads(line)
        except ValueError:
            torn = number == len(lines_of(text))
            found.append((number, "torn_record" if torn else "bad_json"))
            continue
        items = value if isinstance(value, list) else [value]
        found += [(number + at, item if isinstance(item, dict) else "unknown_record") for at, item in enumerate(items)]
    return found


def sniffed(files, name):
    """The format of a file, by the keys of its first record that can be read."""
    data = dict(files)[name]
    if is_stream(text_of(data)):
        return "events"
    first = next(record for _, record in records(data) if isinstance(record, dict))
    if "messages" in first and ("agent_id" in first or "trajectory_format" in first):
        return "cooperbench"
    if "response" in first or "stream" in first:
        return "calls"
    if "output_ids" in first:
        return "native"
    return "response"


def folder_of(name):
    return name.rsplit("/", 1)[0] if "/" in name else ""


def read_record(record, form, origin, rewards):
    """The calls of a record, or None where it holds none."""
    reader = {
        "calls": read_call_log,
        "events": read_call_log,
        "native": read_native,
        "response": read_bare,
        "cooperbench": read_trajectory,
    }[form]
    calls = reader(record, origin, rewards)
    for call in calls or []:
        call["format"] = "response" if form == "events" else form
        call["file"], call["record"] = origin["file"], origin["record"]
    return calls


def new_call(**known):
    call = dict.fromkeys(
        ("prompt", "output", "logprobs", "call_id", "kind", "turn", "started", "finish", "bad", "scope")
    )
    call |= {"stop_string": False, "stop_ids": [], "choice": 0, "parse_error": False, "failed": False}
    call |= {"who": {}, "numbered": False, "whole": False, "bad_reasons": [], "nth": 0}
    return call | known


def ids_of(value, call):
    """The ids of a list; None where it is missing or where an entry is no id, which the call then remembers."""
    if value is None:
        return None
    if not isinstance(value, list) or any(type(one) is not int or not 0 <= one < 2**31 for one in value):
        call["bad_reasons"].append("bad_ids")
        return None
    return value


def who_of(record):
    reward = record.get("reward")
    return {
        "rollout_id": name_of(record.get("rollout_id") or record.get("session_id")),
        "task_id": name_of(record.get("task_id")),
        "pair_id": name_of(record.get("pair_id")),
        "agent": name_of(record.get("agent") or record.get("agent_id")),
        "status": {None: None, "ok": "ok", "Submitted": "ok", "infra_error": "infra_error"}[record.get("status")],
        "attempt": record.get("attempt"),
        "reward": reward if type(reward) in (int, float) and reward == reward else None,
        "source": record.get("source"),
    }


def name_of(value):
    return value if value is None else str(value)


def time_of(value):
    if isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp()
    return value


def read_native(record, origin, rewards):
    flat = {**record, **(record.get("metadata") or {})}
    call = new_call(who=who_of(flat), whole=who_of(flat)["rollout_id"] is None)
    call["prompt"] = ids_of(record.get("prompt_ids", record.get("input_ids")), call)
    call["output"] = ids_of(record.get("output_ids"), call)
    call |= {
        "logprobs": record.get("logprobs", record.get("output_logprobs")),
        "finish": flat.get("finish", flat.get("finish_reason")),
        "stop_string": isinstance(flat.get("stop_string"), str),
        "stop_ids": list(flat.get("stop_token_ids") or []),
        "call_id": name_of(flat.get("call_id", flat.get("id"))),
        "choice": flat.get("choice") or 0,
        "kind": flat.get("kind"),
        "turn": flat.get("turn"),
        "started": time_of(flat.get("started", flat.get("timestamp"))),
        "parse_error": flat.get("parse_error") is True,
        "failed": flat.get("error") not in (None, False, "") or flat.get("finish") in FAILED,
    }
    check_logprobs(call)
    return [call]


def read_call_log(record, origin, rewards):
    failed = record.get("error") not in (None, False, "")
    stream = record.get("stream")
    if "response" not in record and not isinstance(stream, str) and not failed:
        return None
    reply = join_stream(stream) if isinstance(stream, str) else record.get("response") or {}
    return of_reply(
        reply,
        who=who_of(record),
        whole=who_of(record)["rollout_id"] is None,
        kind=record.get("kind"),
        turn=record.get("turn"),
        started=time_of(record.get("started", record.get("timestamp"))),
        parse_error=record.get("parse_error") is True,
        failed=failed,
        stop_ids=list((record.get("request") or {}).get("stop_token_ids") or []),
        call_id=record.get("call_id"),
    )


def read_bare(record, origin, rewards):
    if "choices" not in record and "error" not in record and "prompt_token_ids" not in record:
        return None
    who = {**who_of(record)}
    return of_reply(
        record,
        who=who,
        whole=who["rollout_id"] is None,
        kind=record.get("kind"),
        turn=record.get("turn"),
        started=time_of(record.get("started", record.get("timestamp"))),
    )


def join_stream(text):
    """The reply that a stream of chunks is in pieces."""
    reply, choices, done = {}, {}, False
    for line in text.split("\n"):
        line = line.strip()
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            done = True
            break
        if not data:
            continue
        chunk = loads(data)
        for key in ("id", "usage", "error", "created"):
            if chunk.get(key) is not None:
                reply[key] = chunk[key]
        if reply.get("prompt_token_ids") is None and chunk.get("prompt_token_ids") is not None:
            reply["prompt_token_ids"] = chunk["prompt_token_ids"]
        for delta in chunk.get("choices") or []:
            choice = choices.setdefault(delta.get("index", 0), {"index": delta.get("index", 0)})
            for key in ("prompt_token_ids", "finish_reason", "stop_reason", "matched_stop"):
                if choice.get(key) is None and delta.get(key) is not None:
                    choice[key] = delta[key]
            if isinstance(delta.get("token_ids"), list):
                choice["token_ids"] = choice.get("token_ids", []) + delta["token_ids"]
            if content := (delta.get("logprobs") or {}).get("content"):
                choice.setdefault("logprobs", {"content": []})["content"] += content
    # The client went away before the engine said how it ended.
    reply["cut"] = not done and any(choice.get("finish_reason") is None for choice in choices.values())
    return {**reply, "choices": list(choices.values())}


def of_reply(reply, **known):
    failed = known.get("failed", False) or reply.get("error") is not None or reply.get("cut", False)
    if not reply.get("choices"):
        return [new_call(**{**known, "failed": failed, "call_id": name_of(reply.get("id"))})]
    calls = []
    for at, choice in enumerate(reply["choices"]):
        special = choice.get("provider_specific_fields") or {}
        ext = reply.get("sglext") or {}
        call = new_call(**known)
        call["bad_reasons"], call["stop_ids"] = [], list(call["stop_ids"])
        call["choice"] = choice.get("index", at)
        call["call_id"] = name_of(reply.get("id")) or call["call_id"]
        if call["started"] is None:
            call["started"] = reply.get("created")
        prompts = [
            reply.get("prompt_token_ids"),
            choice.get("prompt_token_ids"),
            special.get("prompt_token_ids"),
            ext.get("input_ids"),
        ]
        keys = ("token_ids", "response_token_ids", "output_token_ids")
        outputs = [choice.get(key) for key in keys] + [special.get(key) for key in keys]
        outputs.append((choice.get("message") or {}).get("token_ids"))
        outputs += (ext.get("output_ids") or [])[call["choice"] : call["choice"] + 1]
        call["prompt"] = ids_of(next((one for one in prompts if one is not None), None), call)
        call["output"] = ids_of(next((one for one in outputs if one is not None), None), call)
        call["finish"] = choice.get("finish_reason")
        reasons = [place.get(key) for place in (choice, special) for key in ("stop_reason", "matched_stop")]
        for reason in reasons:
            if isinstance(reason, int):
                call["stop_ids"].append(reason)
            elif reason in ("NaN happened", "repetition_detected"):
                call["failed"] = True
            elif isinstance(reason, str):
                call["stop_string"] = True
        call["failed"] = call["failed"] or failed or call["finish"] in FAILED
        logprobs = choice.get("logprobs") or {}
        if logprobs.get("content"):
            call["logprobs"] = [entry["logprob"] for entry in logprobs["content"]]
        elif logprobs.get("token_logprobs"):
            call["logprobs"] = logprobs["token_logprobs"]
        calls.append(call)
    usage = reply.get("usage") or {}
    if not any(call["failed"] for call in calls):
        check_usage(usage, calls)
    for call in calls:
        check_logprobs(call)
    return calls


def check_usage(usage, calls):
    outputs, prompts = [call["output"] for call in calls], [call["prompt"] for call in calls]
    wrong = False
    if usage.get("completion_tokens") is not None and None not in outputs:
        wrong = usage["completion_tokens"] != sum(map(len, outputs))
    there = [prompt for prompt in prompts if prompt is not None]
    if usage.get("prompt_tokens") is not None and there:
        different = [one for at, one in enumerate(there) if one not in there[:at]]
        wrong = wrong or usage["prompt_tokens"] not in (len(there[0]), sum(map(len, different)))
    if wrong:
        for call in calls:
            call["bad_reasons"].append("usage_mismatch")


def check_logprobs(call):
    if call["output"] is not None and call["logprobs"] is not None and len(call["logprobs"]) != len(call["output"]):
        call["bad_reasons"].append("logprob_mismatch")


def read_trajectory(record, origin, rewards):
    if "messages" not in record:
        return None
    who = who_of(record)
    repo, task, feature = record.get("repo"), name_of(record.get("task_id")), record.get("feature_id")
    parts = origin["folder"].split("/")
    pair = parts[-1] if origin["document"] and parts[-1].startswith("f") and "_f" in parts[-1] else None
    who["task_id"] = f"{repo}/{task}" if repo and task else task or repo
    if pair and who["pair_id"] is None and who["task_id"]:
        who["pair_id"] = f"{who['task_id']}/{pair}"
    if who["rollout_id"] is None:
        of = who["pair_id"] or (f"{who['task_id']}/f{feature}" if who["task_id"] and feature else who["task_id"])
        who["rollout_id"] = "/".join(part for part in (of, who["agent"]) if part) or None
    if who["reward"] is None and origin["document"]:
        who["reward"] = rewards.get(origin["folder"])
    calls, turn = [], 0
    for message in record["messages"]:
        extra = message.get("extra") or {}
        capture = extra.get("token_capture") or message.get("token_capture")
        complaint = extra.get("interrupt_type") == "FormatError" and extra.get("response")
        if message.get("role") != "assistant" and not complaint:
            continue
        known = {"who": who, "numbered": True, "whole": not origin["document"], "turn": turn}
        known |= {"started": time_of(extra.get("timestamp")), "parse_error": message.get("role") != "assistant"}
        known["nth"] = len(calls)
        known["scope"] = origin["folder"] if origin["document"] else None
        if capture:
            call = new_call(**known)
            call["prompt"] = ids_of(capture.get("prompt_token_ids"), call)
            call["output"] = ids_of(capture.get("output_token_ids"), call)
            call["logprobs"] = capture.get("output_logprobs")
            if response := extra.get("response"):
                call["call_id"] = response.get("id")
                choice = (response.get("choices") or [{}])[0]
                call["finish"] = choice.get("finish_reason")
                call["stop_string"] = isinstance(choice.get("stop_reason"), str)
                call["stop_ids"] = [choice["stop_reason"]] if isinstance(choice.get("stop_reason"), int) else []
            check_logprobs(call)
            calls.append(call)
        elif extra.get("response"):
            calls += of_reply(extra["response"], **known)
        else:
            calls.append(new_call(**known))
        turn += message.get("role") == "assistant"
    return calls


# Knowing what belongs together


def tell_repeats(calls):
    """The same response id twice is one record; without an id, the same line with the same time is."""
    known = {}
    for call in calls:
        call["repeat"] = None
        if call["bad_reasons"] or call["prompt"] is None or call["output"] is None:
            continue
        ids = (tuple(call["prompt"]), tuple(call["output"]))
        who, name, choice = call["who"], call["call_id"], call["choice"]
        own = other = None
        if name is not None:
            said = tuple(who.get(key) for key in ("rollout_id", "task_id", "agent", "attempt"))
            here, anywhere = ("number", said, name, choice), ("id", name, choice)
            if name.isdigit():
                own = here
            else:
                own, other = (here, anywhere) if call["format"] == "native" else (anywhere, here)
        elif call["scope"]:
            own = ("folder", call["scope"], who["rollout_id"], ids)
        elif call["started"] is not None:
            own = ("line", who["rollout_id"], call["turn"], call["started"], ids)
        if own in known:
            call["repeat"] = "duplicate" if known[own] == ids else "contradicting_ids"
        elif other in known and known[other] == ids:
            call["repeat"] = "duplicate"
        elif own is not None:
            known[own] = ids


def rollouts_of(calls):
    """Lists of calls, in the order in which rollouts first appear. Rollouts that share a name get a number."""
    parts = {}
    for at, call in enumerate(calls):
        who = call["who"]
        call["name"] = who.get("rollout_id")
        said = tuple(who.get(key) for key in ("task_id", "agent", "attempt"))
        key = ("whole", call["file"], call["record"]) if call["whole"] else (call["scope"] or "", call["name"], said)
        parts.setdefault(key, {"first": at, "said": said, "calls": []})["calls"].append((at, call))
    rollouts = []
    for key, part in parts.items():
        if key[0] == "whole":
            rollouts.append(part["calls"])
            continue
        others = [other for (*session, _), other in parts.items() if tuple(session) == key[:2]]
        rollouts.append(part["calls"] if whose(part, others) is part else [])
        for other in others:
            if other is not part and whose(other, others) is part:
                rollouts[-1] = sorted(rollouts[-1] + other["calls"], key=lambda entry: entry[0])
    names = {}
    rollouts = sorted((entries for entries in rollouts if entries), key=lambda entries: entries[0][0])
    for entries in rollouts:
        name = entries[0][1]["name"]
        if name is not None:
            names[name] = names.get(name, 0) + 1
        joined = {"rollout_id": name if names.get(name, 1) == 1 else f"{name}#{names[name]}"}
        for key in ("task_id", "pair_id", "agent", "attempt", "source"):
            said = [call["who"].get(key) for _, call in entries if call["who"].get(key) is not None]
            joined[key] = said[0] if said else None
        in_time = sorted((call for _, call in entries), key=when)
        for key in ("reward", "status"):
            said = [call["who"].get(key) for call in in_time if call["who"].get(key) is not None]
            joined[key] = said[-1] if said else None
        for _, call in entries:
            call["who"] = {**call["who"], **joined}
    return [[call for _, call in entries] for entries in rollouts]


def when(call):
    """Calls in time, whatever the order of their lines."""
    started, turn = call["started"], call["turn"]
    return (started is not None, started or 0, turn is not None, turn or 0, call["choice"], call["call_id"] or "")


def whose(part, others):
    """The part of a rollout's lines that this one joins: of lines that say all that these say, and most."""
    if all(len({other["said"][at] for other in others} - {None}) < 2 for at in range(3)):
        return min(others, key=lambda other: other["first"])

    def less(one, other):
        pairs = zip(one["said"], other["said"], strict=True)
        return one["said"] != other["said"] and all(mine is None or mine == theirs for mine, theirs in pairs)

    more = [other for other in others if less(part, other) and not any(less(other, third) for third in others)]
    return more[0] if len(more) == 1 else part


def arrange(rollout):
    """Numbers turns where nobody did, and sorts."""

    def solver(call):
        return call["kind"] in (None, "solver") and call["repeat"] is None and not call["failed"]

    named = rollout[0]["who"]["rollout_id"] is not None
    if named and not rollout[0]["numbered"] and all(not solver(call) or call["turn"] is None for call in rollout):
        if all(call["started"] is not None for call in rollout):
            # Of calls of one moment the one with the longer history came later.
            rollout.sort(
                key=lambda call: (call["started"], len(call["prompt"] or []), call["call_id"] or "", call["choice"])
            )
        turn, last = 0, None
        for call in rollout:
            call["turn"] = None
            if not solver(call):
                continue
            # Choices of one reply are siblings, whether or not one record holds them.
            where = call["call_id"] or (call["file"], call["record"])
            if last not in (None, where):
                turn += 1
            call["turn"] = turn
            # What the harness dropped has the number of what it kept in its place.
            last = None if call["parse_error"] else where
    rollout.sort(
        key=lambda call: (
            2**40 if call["turn"] is None else call["turn"],
            call["started"] or 0,
            call["call_id"] or "",
            call["choice"],
        )
    )


# Policies


def identity_of(prompt, options, profiles):
    if options["profile"] is not None:
        profile = options["profile"]
        fits = reference.opened_by(prompt, profile) != "unknown"
        return profile if fits and starts(prompt, profile) else None
    for profile in profiles:
        if starts(prompt, profile) and reference.tail_of(prompt, profile) != "other":
            return profile
    return None


def starts(prompt, profile):
    return prompt[: len(profile["prompt_start"])] == profile["prompt_start"]


def row_of(call, rollout, options, profiles):
    """A row, or the first reason of the closed list why there is none."""
    verdict = judge(call, rollout, options, profiles)
    return verdict if isinstance(verdict, str) else turn_row(call, verdict, options)


def judge(call, rollout, options, profiles):
    """What the policies say of a call by itself: a reason why it gives no row, or what its row needs to know."""
    if call["bad_reasons"]:
        return call["bad_reasons"][0]
    if call["repeat"]:
        return call["repeat"]
    if call["failed"] or call["who"].get("status") == "infra_error":
        return "infra_error"
    kind = call["kind"] or "solver"
    if kind not in options["kind"]:
        return "kind"
    if call["parse_error"]:
        return "parse_error"
    if not call["prompt"] or call["output"] is None:
        return "no_capture" if call["output"] != [] or call["prompt"] is None else "empty_output"
    if not call["output"]:
        return "empty_output"
    prompt, output = call["prompt"], call["output"]
    profile = identity_of(prompt, options, profiles)
    if profile and max(prompt + output) >= profile["id_limit"]:
        return "id_out_of_vocab"

    others = [one for one in rollout if one is not call and one["repeat"] is None]
    flags = RETRIED if any(one["prompt"] == prompt for one in others) else 0
    if profile:
        truncated = not (call["stop_string"] or output[-1] in profile["stop_ids"] + call["stop_ids"])
    else:
        truncated = call["finish"] == "length"
    if truncated and options["truncated"] == "drop":
        return "truncated"
    flags |= TRUNCATED if truncated else 0

    spans, opened = [], "unknown"
    if profile:
        opened = reference.opened_by(prompt, profile)
        found = reference.find_think(output, opened, profile)
        spans = found["spans"]
        dropping = options["think"] != "keep" and options["unterminated"] == "drop"
        if found["unterminated"] and not (truncated and options["truncated"] == "mask") and dropping:
            return "unterminated_think"
        flags |= THINK_STRIPPED if spans and options["think"] != "keep" else 0
        for name, bit in (
            ("absent", THINK_ABSENT),
            ("unterminated", THINK_UNTERMINATED),
            ("odd", THINK_ODD),
            ("split_marker", SPLIT_MARKER),
        ):
            flags |= bit if found[name] else 0
    cut = spans if options["think"] in ("strip", "strip-all") else []
    masked = "truncated_masked" if truncated and options["truncated"] == "mask" else None
    nothing_but = not reference.keep_spans(len(output), spans)
    if nothing_but and (cut or (options["think"] == "mask" and not masked)):
        return "empty_after_strip"
    return {"profile": profile, "flags": flags, "opened": opened, "spans": spans, "cut": cut, "masked": masked}


def turn_row(call, verdict, options):
    """The row of one call, or why it is too long."""
    prompt, output, profile = call["prompt"], call["output"], verdict["profile"]
    flags, spans, masked = verdict["flags"] | PROMPT_EXACT, verdict["spans"], verdict["masked"]
    new_prompt = policies_on_prompt(prompt, profile, options)
    left = reference.cut(output, verdict["cut"])
    if verdict["cut"] and verdict["opened"] == "yes" and options["tail"] == "captured":
        flags |= OPEN_THINK_TAIL
    limit = options["max_length"]
    if limit is not None and len(new_prompt) + len(left) > limit:
        dropped = None
        if options["overlong"] == "trim-prompt" and profile and len(left) <= limit:
            dropped = reference.trim_prompt(new_prompt, limit - len(left), profile)
        if dropped is None:
            return "overlong"
        new_prompt = new_prompt[: dropped[0]] + new_prompt[dropped[1] :]
        flags |= PROMPT_TRIMMED
    if new_prompt != prompt:
        flags &= ~PROMPT_EXACT

    tokens = {**tokens_of(call, verdict, options), "prompt": len(new_prompt)}
    loss_spans = None
    if masked:
        loss_spans = []
    elif options["think"] == "mask" and spans:
        at = len(new_prompt)
        keep = reference.keep_spans(len(output), spans)
        loss_spans = [(at + start, at + end, 1.0) for start, end in keep]
        flags |= THINK_MASKED
    return {
        "input_ids": new_prompt,
        "output_ids": left,
        "loss_spans": loss_spans,
        **facts_of(call),
        "flags": flags,
        "tokens": tokens,
    }


def tokens_of(call, verdict, options):
    """What becomes of the ids of one output."""
    thinking = sum(end - start for start, end in verdict["spans"])
    tokens = {"sampled": len(call["output"]), "think_cut": thinking if verdict["cut"] else 0}
    left = tokens["sampled"] - tokens["think_cut"]
    if verdict["masked"]:
        tokens[verdict["masked"]] = left
        return {**tokens, "trained": 0}
    tokens["think_masked"] = thinking if options["think"] == "mask" else 0
    return {**tokens, "trained": left - tokens["think_masked"]}


def policies_on_prompt(prompt, profile, options):
    new_prompt = prompt
    if profile and options["think"] == "strip-all":
        new_prompt = strip_all(prompt, profile, options)
    if profile and options["tail"] == "no-think":
        rewritten = reference.no_think_tail(new_prompt, profile)
        new_prompt = new_prompt if rewritten is None else rewritten
    return new_prompt


def strip_all(prompt, profile, options):
    """Each closed assistant turn without its thinking; with thinking off from the start, the template would have
    written its empty pair in its place."""
    pair = history_pair(profile) if options["tail"] == "no-think" else []
    new_prompt, at = [], 0
    for start, end in thinking_of_history(prompt, profile):
        new_prompt += prompt[at:start] + pair
        at = end
    return new_prompt + prompt[at:]


def thinking_of_history(prompt, profile):
    """[start, end] of each think span in a closed assistant turn."""
    found = []
    for start, end in reference.assistant_turns(prompt, profile):
        spans = reference.find_think(prompt[start:end], reference.history_opened(profile), profile)["spans"]
        found += [[start + first, start + last] for first, last in spans]
    return found


def history_pair(profile):
    """What the template writes into an earlier answer that has no reasoning: its no-thinking tail behind the header."""
    if not profile["history_pair"]:
        return []
    tail = profile["tail_no_think"]
    header = next((header for header in profile["assistant_start"] if tail[: len(header)] == header), tail)
    return tail[len(header) :]


def facts_of(call):
    """The scalar columns that only say who and where."""
    who = call["who"]
    return {
        **{key: who.get(key) for key in ("rollout_id", "task_id", "pair_id", "agent", "status", "attempt", "reward")},
        "call_id": call["call_id"],
        "kind": call["kind"] or "solver",
        "turn": call["turn"],
        "source": who.get("source") or "native",
        "capture_format": call["format"],
        "capture_file": call["file"],
        "capture_record": call["record"],
    }


def weigh(row, rollout, options):
    """The product of the weights of all rules that are about the row."""
    turns = [call["turn"] for call in rollout if call["repeat"] is None and call["turn"] is not None]
    values = {"agent": row["agent"], "kind": row["kind"], "task": row["task_id"], "pair": row["pair_id"]}
    values |= {"rollout": row["rollout_id"], "status": row["status"], "attempt": name_of(row["attempt"])}
    weight = 1.0
    for rule in options["upweight"]:
        selector, _, factor = rule.rpartition(":")
        if "=" in selector:
            key, _, value = selector.partition("=")
            hit = values[key] == value
        elif row["turn"] is None:
            hit = False
        elif selector in ("first", "last"):
            hit = row["turn"] == (min(turns) if selector == "first" else max(turns))
        else:
            low, _, high = selector.partition("-")
            hit = int(low) <= row["turn"] <= int(high or low)
        weight *= float(factor) if hit else 1.0
    return weight
