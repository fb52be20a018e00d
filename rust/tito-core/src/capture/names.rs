//! The order of files, wherever they are listed: folder by folder, runs of digits by their number (`reply_2` before
//! `reply_10`), everything else byte by byte. Names that are then alike (`2` and `02`) stand in the order of their bytes,
//! so that the order is one, on every machine.

use std::cmp::Ordering;

/// Compares two paths or URLs, whose folders `/` divides.
#[must_use]
pub fn by_name(one: &str, other: &str) -> Ordering {
    let (mut ones, mut others) = (one.split(is_separator), other.split(is_separator));
    loop {
        match (ones.next(), others.next()) {
            (Some(a), Some(b)) => match by_number(a.as_bytes(), b.as_bytes()).then_with(|| a.cmp(b)) {
                Ordering::Equal => {}
                unlike => return unlike,
            },
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}

fn is_separator(c: char) -> bool {
    c == '/' || c == std::path::MAIN_SEPARATOR
}

/// A name is a list of bytes and of numbers; a number stands where its first digit would.
fn by_number(mut one: &[u8], mut other: &[u8]) -> Ordering {
    loop {
        let (Some(a), Some(b)) = (one.first(), other.first()) else { return one.len().cmp(&other.len()) };
        let order = if a.is_ascii_digit() && b.is_ascii_digit() {
            let (x, y) = (number(&mut one), number(&mut other));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            let order = a.cmp(b);
            (one, other) = (&one[1..], &other[1..]);
            order
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Takes the digits that a name begins with, and gives them without the zeros in front.
fn number<'n>(name: &mut &'n [u8]) -> &'n [u8] {
    let end = name.iter().position(|b| !b.is_ascii_digit()).unwrap_or(name.len());
    let (digits, rest) = name.split_at(end);
    *name = rest;
    let zeros = digits.iter().take_while(|b| **b == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use super::by_name;

    #[test]
    fn numbers_count_folders_stay_together_and_nothing_is_alike() {
        let names = ["", "a/reply_02", "a/reply_2", "a/reply_10", "a/reply_10b", "a.b/0", "a1/x", "b", "b/1", "b/99x"];
        for (i, one) in names.iter().enumerate() {
            for (j, other) in names.iter().enumerate() {
                assert_eq!(by_name(one, other), i.cmp(&j), "{one} {other}");
            }
        }
    }
}
