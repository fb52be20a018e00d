//! Whether a text calls a tool of some name, in the forms that the models' templates write.

use regex::bytes::Regex;
use serde_json::Value;

/// What opens a call written as JSON: `<tool_call>` (Qwen, Hermes).
const OPENER: &[u8] = b"<tool_call>";
/// What may stand before a call that is all of the text (Llama).
const BARE: &[u8] = b"<|python_tag|>";

/// The name of a tool, and how calls of it look where they are no JSON.
#[derive(Debug, Clone)]
pub struct Tool {
    name: String,
    forms: Regex,
}

impl Tool {
    /// # Errors
    /// What is wrong, in a few words.
    pub fn new(name: &str) -> Result<Self, String> {
        if name.is_empty() {
            return Err("no name of a tool".to_owned());
        }
        let escaped = regex::escape(name);
        // `<function=` (Qwen3-Coder, Qwen3.5, Nemotron), the bare name in `<tool_call>` (GLM), `invoke name=` (MiniMax,
        // DeepSeek V4), `functions.` (Kimi, gpt-oss), DeepSeek's separator, Gemma's `call:`. JSON that does not read
        // (cut off, say) is told by the name that it begins with.
        let forms = [
            format!("<function={escaped}>"),
            format!(r"<tool_call>\s*{escaped}\s*(?:\n|<)"),
            format!(r#"invoke name="{escaped}""#),
            format!(r"functions\.{escaped}(?::\d|[\s<]|$)"),
            format!("<｜tool▁sep｜>{escaped}\\s"),
            format!(r"call:{escaped}\{{"),
            format!(r#"(?:<tool_call>|\A\s*(?:<\|python_tag\|>)?)\s*\{{\s*"name"\s*:\s*"{escaped}""#),
        ];
        let forms = Regex::new(&forms.join("|")).map_err(|e| e.to_string())?;
        Ok(Self { name: name.to_owned(), forms })
    }

    /// Whether the text, which holds no thinking, calls it.
    #[must_use]
    pub fn is_called_in(&self, text: &[u8]) -> bool {
        let all = text.trim_ascii_start();
        let bare = all.strip_prefix(BARE).unwrap_or(all);
        self.forms.is_match(text)
            || self.is_named_by(bare)
            || memchr::memmem::find_iter(text, OPENER).any(|at| self.is_named_by(&text[at + OPENER.len()..]))
    }

    /// Whether JSON that the text begins with names it.
    fn is_named_by(&self, text: &[u8]) -> bool {
        if !matches!(text.trim_ascii_start().first(), Some(b'{' | b'[')) {
            return false;
        }
        let first = serde_json::Deserializer::from_slice(text).into_iter::<Value>().next();
        let named = |call: &Value| {
            let name = |call: &Value| call.get("name").and_then(Value::as_str) == Some(&self.name);
            name(call) || call.get("function").is_some_and(name)
        };
        match first {
            Some(Ok(Value::Array(calls))) => calls.iter().any(named),
            Some(Ok(call)) => named(&call),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_told_by_how_they_are_called() {
        let bash = Tool::new("bash").unwrap();
        for text in [
            "Look.\n\n<tool_call>\n{\"name\": \"bash\", \"arguments\": {}}\n</tool_call>",
            "<tool_call>\n{\"arguments\": {\"a\": 1}, \"name\": \"bash\"}\n</tool_call>",
            "<tool_call>{\"id\": \"1\", \"function\": {\"name\": \"bash\", \"arguments\": \"{}\"}}</tool_call>",
            "<tool_call>[{\"name\": \"ls\"}, {\"name\": \"bash\"}]</tool_call>",
            "<tool_call>{\"name\": \"\\u0062ash\"}</tool_call>",
            "<tool_call>{\"name\": \"ls\"}</tool_call>\n<tool_call>{\"name\": \"bash\", \"argum",
            "<tool_call>\n<function=bash>\n<parameter=command>",
            "<tool_call>bash\n<arg_key>command</arg_key>",
            "<invoke name=\"bash\">",
            "functions.bash:0<|tool_call_argument_begin|>",
            "<|channel|>commentary to=functions.bash <|constrain|>json",
            "function<｜tool▁sep｜>bash\n```json",
            "<|tool_call>call:bash{command:1}",
            "<|python_tag|>{\"name\": \"bash\"}",
            " {\"parameters\": {}, \"name\": \"bash\"}",
        ] {
            assert!(bash.is_called_in(text.as_bytes()), "{text}");
            for other in ["bas", "command", "arguments"] {
                assert!(!Tool::new(other).unwrap().is_called_in(text.as_bytes()), "{other}: {text}");
            }
        }
        for text in
            ["I would run bash now", "<tool_call>{\"arguments\": {\"name\": \"bash\"}, \"name\": \"ls\"}</tool_call>"]
        {
            assert!(!bash.is_called_in(text.as_bytes()), "{text}");
        }
        assert!(Tool::new("").is_err());
    }
}
