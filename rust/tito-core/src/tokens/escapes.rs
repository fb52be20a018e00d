//! Text as it stands inside JSON strings, read as what it stands for.

/// The text with its JSON escapes resolved once, and for each byte where it came from. `None` where there are none.
/// Text that is no JSON is read alike: a backslash that escapes nothing stays.
#[must_use]
pub fn unescaped(text: &[u8]) -> Option<(Vec<u8>, Vec<u32>)> {
    let mut next = memchr::memchr(b'\\', text)?;
    let (mut out, mut from) = (Vec::with_capacity(text.len()), Vec::with_capacity(text.len()));
    let mut at = 0;
    loop {
        out.extend_from_slice(&text[at..next]);
        from.extend(at as u32..next as u32);
        let (letter, length) = read(&text[next..]);
        let mut bytes = [0; 4];
        match letter {
            Some(letter) => out.extend_from_slice(letter.encode_utf8(&mut bytes).as_bytes()),
            None => out.extend_from_slice(&text[next..next + length]),
        }
        from.resize(out.len(), next as u32);
        at = next + length;
        match memchr::memchr(b'\\', &text[at..]) {
            Some(more) => next = at + more,
            None => break,
        }
    }
    out.extend_from_slice(&text[at..]);
    from.extend(at as u32..text.len() as u32);
    (out != text).then_some((out, from))
}

/// The letter that an escape stands for, if it is one, and how many bytes it has.
fn read(text: &[u8]) -> (Option<char>, usize) {
    let letter = match text.get(1) {
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(quoted @ (b'"' | b'\\' | b'/')) => char::from(*quoted),
        Some(b'u') => return unicode(text),
        _ => return (None, 1),
    };
    (Some(letter), 2)
}

fn unicode(text: &[u8]) -> (Option<char>, usize) {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        u16::from_str_radix(std::str::from_utf8(&digits[2..]).ok()?, 16).ok()
    };
    let Some(first) = unit(0) else { return (None, 1) };
    if let Ok(letter) = u32::from(first).try_into() {
        return (Some(letter), 6);
    }
    let pair = char::decode_utf16([first, unit(6).unwrap_or_default()]).next();
    match pair {
        Some(Ok(letter)) => (Some(letter), 12),
        _ => (None, 6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> Option<String> {
        unescaped(text.as_bytes()).map(|(out, _)| String::from_utf8(out).unwrap())
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(text("plain"), None);
        assert_eq!(
            text(r#"a\nb\t\"c\" \\ \/ \u2019s \ud83d\ude00!"#).as_deref(),
            Some("a\nb\t\"c\" \\ / \u{2019}s \u{1F600}!")
        );
        assert_eq!(text(r"C:\x \u12 \ud83d end \"), None);
        let (out, from) = unescaped(br"ab\u0041\nc").unwrap();
        assert_eq!((&out[..], &from[..]), (&b"abA\nc"[..], &[0, 1, 2, 8, 10][..]));
    }

    proptest! {
        #[test]
        fn what_json_escapes_comes_back(plain in any::<String>()) {
            let escaped = serde_json::to_string(&plain).unwrap();
            let inner = &escaped[1..escaped.len() - 1];
            let (out, from) = unescaped(inner.as_bytes())
                .unwrap_or_else(|| (inner.as_bytes().to_vec(), (0..inner.len() as u32).collect()));
            prop_assert_eq!(String::from_utf8(out).unwrap(), plain);
            prop_assert!(from.windows(2).all(|pair| pair[0] <= pair[1]));
        }
    }
}
