//! A buffer that is filled again and again.

use std::io::{self, Read};

/// A buffer that keeps its zeroed length, so that a refill costs no clearing.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) filled: usize,
}

impl Buffer {
    pub(super) fn text(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    pub(super) fn append(&mut self, text: &[u8]) {
        self.reserve(text.len());
        self.bytes[self.filled..self.filled + text.len()].copy_from_slice(text);
        self.filled += text.len();
    }

    pub(super) fn reserve(&mut self, more: usize) {
        let needed = self.filled + more;
        if self.bytes.len() < needed {
            // Grown by an eighth at most: a line of 100 MB must not cost 200.
            self.bytes.resize(needed.max(self.bytes.len() + self.bytes.len() / 8), 0);
        }
    }

    pub(super) fn read_from(&mut self, reader: &mut dyn Read, limit: usize) -> io::Result<usize> {
        self.reserve(limit);
        loop {
            match reader.read(&mut self.bytes[self.filled..self.filled + limit]) {
                Ok(n) => {
                    self.filled += n;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
