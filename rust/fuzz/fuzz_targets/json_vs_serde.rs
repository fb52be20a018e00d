//! Differential: what serde_json takes, the cursor walks to the same tree and skips to the same byte; what the cursor
//! takes and serde_json refuses must be one of the known leniencies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Deserializer, Value};
use tito_core::json::{Cursor, Fault, Scalar};

/// What both can say: numbers are f64 here.
#[derive(Debug)]
enum Tree {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

fn walk(c: &mut Cursor<'_>) -> Result<Tree, Fault> {
    match c.peek() {
        Some(b'[') => {
            let mut items = Vec::new();
            assert!(c.array::<Fault>(|c, at| {
                assert_eq!(at, items.len());
                items.push(walk(c)?);
                Ok(())
            })?);
            Ok(Tree::List(items))
        }
        Some(b'{') => {
            let mut entries: Vec<(String, Tree)> = Vec::new();
            assert!(c.object::<Fault>(|c, key| {
                let key = String::from_utf8_lossy(key).into_owned();
                let value = walk(c)?;
                entries.push((key, value));
                Ok(())
            })?);
            Ok(Tree::Object(entries))
        }
        _ => Ok(match c.scalar()? {
            Scalar::Missing => Tree::Null,
            Scalar::Bool(yes) => Tree::Bool(yes),
            Scalar::Number(n) => Tree::Number(n),
            Scalar::Text(text) => Tree::Text(text.into_owned()),
        }),
    }
}

fn same(tree: &Tree, value: &Value) -> bool {
    match (tree, value) {
        (Tree::Null, Value::Null) => true,
        (Tree::Bool(a), Value::Bool(b)) => a == b,
        (Tree::Number(a), Value::Number(b)) => b.as_f64() == Some(*a),
        (Tree::Text(a), Value::String(b)) => a == b,
        (Tree::List(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Tree::Object(a), Value::Object(b)) => {
            // serde_json keeps the last of equal keys.
            let last = |key: &str| a.iter().rev().find(|(k, _)| k == key).map(|(_, tree)| tree);
            a.iter().all(|(key, _)| b.contains_key(key))
                && b.iter().all(|(key, value)| last(key).is_some_and(|tree| same(tree, value)))
        }
        _ => false,
    }
}

/// Why the cursor may take what strict JSON refuses: NaN and the infinities, control characters and anything but ASCII
/// in strings, lone surrogates, numbers beyond f64, nesting beyond serde_json's 128.
fn lenient(text: &[u8]) -> bool {
    let exponent = text.windows(2).any(|w| matches!(w[0], b'e' | b'E') && matches!(w[1], b'0'..=b'9' | b'+' | b'-'));
    text.iter().any(|b| matches!(b, b'N' | b'I' | 0..b' ' | 0x80..) && !matches!(b, b'\n' | b'\r' | b'\t'))
        || text.iter().any(|b| matches!(b, b'\n' | b'\r' | b'\t')) && text.contains(&b'"')
        || text.windows(3).any(|w| w.eq_ignore_ascii_case(b"\\ud"))
        || exponent
        || text.split(|b| !b.is_ascii_digit()).any(|digits| digits.len() > 300)
        || text.iter().filter(|b| matches!(b, b'[' | b'{')).count() >= 127
}

fuzz_target!(|text: &[u8]| {
    let mut values = Deserializer::from_slice(text).into_iter::<Value>();
    let (mut walking, mut skipping) = (Cursor::new(text), Cursor::new(text));
    while let Some(Ok(value)) = values.next() {
        let tree = walk(&mut walking).unwrap_or_else(|fault| panic!("refused at {}: {}", fault.at, fault.message));
        assert!(same(&tree, &value), "{tree:?}\nis not\n{value:?}");
        assert_eq!(walking.pos(), values.byte_offset(), "walked to another byte");
        let raw = skipping.raw().expect("walked, so it can be skipped");
        assert_eq!(skipping.pos(), walking.pos(), "skipped to another byte");
        assert_eq!(serde_json::from_slice::<Value>(raw).ok(), Some(value), "`raw` is another value");
    }
    let mut cursor = Cursor::new(text);
    if let Ok(tree) = walk(&mut cursor)
        && cursor.at_end()
        && let Err(error) = serde_json::from_slice::<Value>(text)
    {
        assert!(lenient(text), "taken as {tree:?}, refused by serde_json: {error}");
    }
});
