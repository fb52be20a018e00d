//! The pull parser. Callbacks of [`Cursor::object`] and [`Cursor::array`] may consume the value or leave it; a value
//! left is skipped.

use memchr::{memchr, memchr2};
use std::borrow::Cow;

/// JSON that cannot be read, and the byte where that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Byte offset in the cursor's text.
    pub at: usize,
    /// What was expected or seen.
    pub message: &'static str,
}

impl Fault {
    /// Whether the text is good as far as it goes, and ends too early.
    #[must_use]
    pub fn ends_early(&self) -> bool {
        matches!(self.message, NO_END_OF_STRING | NO_END_OF_NESTED)
    }
}

const NO_END_OF_STRING: &str = "a string does not end";
const NO_END_OF_NESTED: &str = "a list or object does not end";

type Result<T> = std::result::Result<T, Fault>;

/// Deeper nesting than this is refused instead of overflowing the stack.
const MAX_DEPTH: u32 = 512;

/// A value that is not a list or an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar<'a> {
    /// `null`, or a list or object (which is skipped).
    Missing,
    /// `true` or `false`.
    Bool(bool),
    /// A number; NaN and the infinities included.
    Number(f64),
    /// A string, decoded lossily.
    Text(Cow<'a, str>),
}

impl Scalar<'_> {
    /// The scalar as a number; booleans and strings are none.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(n) if n.is_finite() => Some(*n),
            _ => None,
        }
    }

    /// The scalar as a whole number that fits.
    #[must_use]
    pub fn int(&self) -> Option<i32> {
        self.number().filter(|n| n.fract() == 0.0 && n.abs() <= f64::from(i32::MAX)).map(|n| n as i32)
    }

    /// Whether the scalar is `true`.
    #[must_use]
    pub fn is_true(&self) -> bool {
        matches!(self, Self::Bool(true))
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    text: &'a [u8],
    pos: usize,
    depth: u32,
}

impl<'a> Cursor<'a> {
    /// A cursor over one JSON value (or several, one after another).
    #[must_use]
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, pos: 0, depth: 0 }
    }

    /// The byte the cursor stands at.
    #[must_use]
    pub fn pos(&self) -> usize {
        self.pos
    }

    pub(super) fn set_pos(&mut self, pos: usize) {
        self.pos = pos;
    }

    /// How many lists and objects are open here.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// A fault at this byte.
    pub(super) fn fault<T>(&self, message: &'static str) -> Result<T> {
        Err(Fault { at: self.pos.min(self.text.len()), message })
    }

    /// Steps over white space and shows the next byte.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.text.get(self.pos) {
            if byte > b' ' {
                return Some(byte);
            }
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => self.pos += 1,
                _ => return Some(byte),
            }
        }
        None
    }

    /// Whether only white space is left.
    pub fn at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    #[inline]
    fn expect(&mut self, byte: u8, message: &'static str) -> Result<()> {
        if self.peek() == Some(byte) {
            self.pos += 1;
            Ok(())
        } else {
            self.fault(message)
        }
    }

    fn descend(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { self.fault("nesting deeper than 512") } else { Ok(()) }
    }

    /// Calls `f` for each key of an object; any other value is skipped and gives false.
    ///
    /// # Errors
    /// A fault of the JSON or of `f`.
    pub fn object<E: From<Fault>>(
        &mut self,
        mut f: impl FnMut(&mut Self, &[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<bool, E> {
        if self.peek() != Some(b'{') {
            self.skip()?;
            return Ok(false);
        }
        self.descend()?;
        self.pos += 1;
        if self.peek() == Some(b'}') {
            self.pos += 1;
            self.depth -= 1;
            return Ok(true);
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.fault("expected a key in double quotes").map_err(E::from);
            }
            let key = self.string_bytes()?;
            self.expect(b':', "expected ':' after a key")?;
            if self.peek().is_none() {
                return self.fault("the text ends where a value should be").map_err(E::from);
            }
            let before = self.pos;
            f(self, &key)?;
            if self.pos == before {
                self.skip()?;
            }
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b'}') => {
                    self.pos += 1;
                    self.depth -= 1;
                    return Ok(true);
                }
                _ => return self.fault("expected ',' or '}' in an object").map_err(E::from),
            }
        }
    }

    /// Calls `f` for each item of a list; any other value is skipped and gives false.
    ///
    /// # Errors
    /// A fault of the JSON or of `f`.
    pub fn array<E: From<Fault>>(
        &mut self,
        mut f: impl FnMut(&mut Self, usize) -> std::result::Result<(), E>,
    ) -> std::result::Result<bool, E> {
        if self.peek() != Some(b'[') {
            self.skip()?;
            return Ok(false);
        }
        self.descend()?;
        self.pos += 1;
        if self.peek() == Some(b']') {
            self.pos += 1;
            self.depth -= 1;
            return Ok(true);
        }
        for index in 0.. {
            if self.peek().is_none() {
                return self.fault("the text ends inside a list").map_err(E::from);
            }
            let before = self.pos;
            f(self, index)?;
            if self.pos == before {
                self.skip()?;
            }
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b']') => {
                    self.pos += 1;
                    self.depth -= 1;
                    break;
                }
                _ => return self.fault("expected ',' or ']' in a list").map_err(E::from),
            }
        }
        Ok(true)
    }

    /// For keys that may stand only once: a fault at the second time. Which of two values is meant nobody can tell.
    ///
    /// # Errors
    /// `a key stands twice in one object`.
    pub fn once(&self, seen: &mut bool) -> Result<()> {
        if std::mem::replace(seen, true) { self.fault("a key stands twice in one object") } else { Ok(()) }
    }

    /// Skips one value and gives its bytes.
    ///
    /// # Errors
    /// A fault of the JSON.
    pub fn raw(&mut self) -> Result<&'a [u8]> {
        self.peek();
        let start = self.pos;
        self.skip()?;
        Ok(&self.text[start..self.pos])
    }

    /// Skips one value: its strings are not decoded and its brackets are matched, its inner grammar is not checked.
    ///
    /// # Errors
    /// A fault of the JSON.
    pub fn skip(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'"') => self.skip_string(),
            Some(b'{' | b'[') => self.skip_nested(),
            Some(_) => self.scalar_token().map(|_| ()),
            None => self.fault("the text ends where a value should be"),
        }
    }

    fn skip_string(&mut self) -> Result<()> {
        let start = self.pos;
        self.pos += 1;
        loop {
            match memchr2(b'"', b'\\', &self.text[self.pos.min(self.text.len())..]) {
                Some(n) if self.text[self.pos + n] == b'"' => {
                    self.pos += n + 1;
                    return Ok(());
                }
                Some(n) => self.pos += n + 2,
                None => {
                    self.pos = start;
                    return self.fault(NO_END_OF_STRING);
                }
            }
        }
    }

    fn skip_nested(&mut self) -> Result<()> {
        self.skip_nested_from(None, |_| {})
    }

    /// Skips a list or an object. `from`: a byte of a list, counted from its beginning, where an item of it ends; what
    /// stands before is known to be good. `ends` is told where further items end that are lists or objects.
    pub(super) fn skip_nested_from(&mut self, from: Option<usize>, mut ends: impl FnMut(usize)) -> Result<()> {
        let start = self.pos;
        let mut open: Vec<u8> = Vec::new();
        if let Some(from) = from {
            open.push(b'[');
            self.pos += from;
        }
        loop {
            self.pos = next_structural(self.text, self.pos);
            let Some(&byte) = self.text.get(self.pos) else {
                self.pos = start;
                return self.fault(NO_END_OF_NESTED);
            };
            match byte {
                b'"' => {
                    self.skip_string()?;
                    continue;
                }
                b'{' | b'[' => {
                    if open.len() as u32 + self.depth >= MAX_DEPTH {
                        return self.fault("nesting deeper than 512");
                    }
                    open.push(byte);
                }
                b'}' | b']' => {
                    // '{' and '[' stand two code points before their closers.
                    if open.pop() != Some(byte - 2) {
                        return self.fault("a bracket closes what it did not open");
                    }
                    match open.len() {
                        0 => {
                            self.pos += 1;
                            return Ok(());
                        }
                        1 => ends(self.pos + 1 - start),
                        _ => {}
                    }
                }
                _ => {}
            }
            self.pos += 1;
        }
    }

    /// The bytes of a literal or number, up to a delimiter.
    fn scalar_token(&mut self) -> Result<&'a [u8]> {
        let start = self.pos;
        while let Some(&byte) = self.text.get(self.pos) {
            if matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t' | b':' | b'"' | b'{' | b'[') {
                break;
            }
            self.pos += 1;
        }
        let token = &self.text[start..self.pos];
        if token_value(token).is_some() {
            Ok(token)
        } else {
            self.pos = start;
            self.fault("not a JSON value")
        }
    }

    /// Reads a scalar; lists and objects are skipped and count as missing.
    ///
    /// # Errors
    /// A fault of the JSON.
    pub fn scalar(&mut self) -> Result<Scalar<'a>> {
        match self.peek() {
            Some(b'"') => Ok(Scalar::Text(self.string()?)),
            Some(b'{' | b'[') => self.skip_nested().map(|()| Scalar::Missing),
            Some(_) => {
                let token = self.scalar_token()?;
                Ok(token_value(token).unwrap_or(Scalar::Missing))
            }
            None => self.fault("the text ends where a value should be"),
        }
    }

    /// Reads a value as text if it is a string.
    ///
    /// # Errors
    /// A fault of the JSON.
    pub fn text_value(&mut self) -> Result<Option<Cow<'a, str>>> {
        match self.scalar()? {
            Scalar::Text(text) => Ok(Some(text)),
            _ => Ok(None),
        }
    }

    /// Decodes a string lossily: lone surrogates and invalid UTF-8 become U+FFFD.
    fn string(&mut self) -> Result<Cow<'a, str>> {
        Ok(match self.string_bytes()? {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        })
    }

    /// Reads a string as bytes, escapes resolved.
    ///
    /// # Errors
    /// A fault of the JSON.
    pub fn string_bytes(&mut self) -> Result<Cow<'a, [u8]>> {
        let start = self.pos + 1;
        self.skip_string()?;
        let inner = &self.text[start..self.pos - 1];
        if memchr(b'\\', inner).is_none() {
            return Ok(Cow::Borrowed(inner));
        }
        let mut out = Vec::with_capacity(inner.len());
        let mut rest = inner;
        while let Some(n) = memchr(b'\\', rest) {
            out.extend_from_slice(&rest[..n]);
            // skip_string has stepped over this escape, so one byte stands behind the backslash.
            let (escape, after) = (rest[n + 1], &rest[n + 2..]);
            rest = after;
            match escape {
                b'n' => out.push(b'\n'),
                b't' => out.push(b'\t'),
                b'r' => out.push(b'\r'),
                b'b' => out.push(8),
                b'f' => out.push(12),
                b'"' | b'\\' | b'/' => out.push(escape),
                b'u' => {
                    let Some(first) = hex4(rest) else {
                        return self.fault("a \\u escape without four hexadecimal digits");
                    };
                    rest = &rest[4..];
                    let mut code = first;
                    if (0xD800..0xDC00).contains(&first)
                        && rest.starts_with(b"\\u")
                        && let Some(second) = hex4(&rest[2..])
                        && (0xDC00..0xE000).contains(&second)
                    {
                        code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                        rest = &rest[6..];
                    }
                    let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => return self.fault("an unknown escape in a string"),
            }
        }
        out.extend_from_slice(rest);
        Ok(Cow::Owned(out))
    }
}

fn hex4(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.get(..4).filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
    std::str::from_utf8(digits).ok().and_then(|d| u32::from_str_radix(d, 16).ok())
}

fn token_value(token: &[u8]) -> Option<Scalar<'static>> {
    match token {
        b"null" => Some(Scalar::Missing),
        b"true" => Some(Scalar::Bool(true)),
        b"false" => Some(Scalar::Bool(false)),
        b"NaN" => Some(Scalar::Number(f64::NAN)),
        b"Infinity" => Some(Scalar::Number(f64::INFINITY)),
        b"-Infinity" => Some(Scalar::Number(f64::NEG_INFINITY)),
        _ if is_number(token) => std::str::from_utf8(token).ok()?.parse().ok().map(Scalar::Number),
        _ => None,
    }
}

/// The grammar of a JSON number, which is narrower than what Rust's parser takes.
fn is_number(token: &[u8]) -> bool {
    let digits = |t: &[u8]| t.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut rest = token.strip_prefix(b"-").unwrap_or(token);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let n = digits(fraction);
        if n == 0 {
            return false;
        }
        rest = &fraction[n..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        return !exponent.is_empty() && digits(exponent) == exponent.len();
    }
    rest.is_empty()
}

/// The next byte at or behind `from` that may be a quote or a bracket. Blocks of 32 are tested at once with two masks
/// (`[ ] { }` and a few others all become 0x7F under `| 0x26`), which the compiler turns into vector code: numbers
/// inside a skipped list cost a fraction of a cycle a byte.
fn next_structural(text: &[u8], from: usize) -> usize {
    const fn hit(byte: u8) -> bool {
        matches!(byte, b'"' | b'{' | b'}' | b'[' | b']')
    }
    let mut at = from;
    while let Some(block) = text.get(at..at + 32) {
        let mut any = 0u8;
        for &byte in block {
            any |= u8::from((byte | 0x26) == 0x7F) | u8::from(byte == b'"');
        }
        if any != 0
            && let Some(n) = block.iter().position(|b| hit(*b))
        {
            return at + n;
        }
        at += 32;
    }
    text.get(at..).and_then(|rest| rest.iter().position(|b| hit(*b))).map_or(text.len(), |n| at + n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_covers_every_structural_byte() {
        for byte in 0..=255u8 {
            let exact = matches!(byte, b'"' | b'{' | b'}' | b'[' | b']');
            let masked = (byte | 0x26) == 0x7F || byte == b'"';
            assert!(!exact || masked, "byte {byte:#x} would be missed");
        }
    }

    #[test]
    fn strings_decode_as_python_writes_them() {
        let mut cursor = Cursor::new(br#""a\u00e9\ud83d\ude00\udc80\n\"""#);
        assert_eq!(cursor.text_value().unwrap().unwrap(), "a\u{e9}\u{1F600}\u{FFFD}\n\"");
    }

    #[test]
    fn what_is_skipped_is_not_decoded() {
        let mut cursor = Cursor::new(b"{\"a\": [NaN, -Infinity, \"\xff\\udc80\"], \"b\": 7}");
        let mut seen = None;
        let ok = cursor.object::<Fault>(|c, key| {
            if key == b"b" {
                seen = c.scalar()?.int();
            }
            Ok(())
        });
        assert_eq!(ok, Ok(true));
        assert_eq!(seen, Some(7));
    }

    #[test]
    fn broken_text_is_a_fault_with_its_place() {
        for (text, at) in
            [("{\"a\":1", 6), ("{\"a\" 1}", 5), ("{\"a\":[1,2}", 9), ("{\"a\":\"x", 5), ("{\"a\":01}", 5), ("{a:1}", 1)]
        {
            let mut cursor = Cursor::new(text.as_bytes());
            let fault = cursor.object::<Fault>(|_, _| Ok(())).unwrap_err();
            assert_eq!(fault.at, at, "{text}: {}", fault.message);
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = "[".repeat(100_000);
        assert!(Cursor::new(text.as_bytes()).skip().is_err());
    }
}
