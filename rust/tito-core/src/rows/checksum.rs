//! Pages with the checksum of their bytes (CRC-32, as parquet has it): a bit that flips on a disk is an error to every
//! reader that looks. The parquet crate looks when it reads and has none to write, so it goes into the header it makes.

use parquet::column::page::{CompressedPage, PageWriteSpec, PageWriter};
use parquet::errors::{ParquetError, Result};
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};

/// Writes pages one behind the other.
pub(super) struct Checked<'b>(pub(super) &'b mut Vec<u8>);

impl PageWriter for Checked<'_> {
    fn write_page(&mut self, page: CompressedPage) -> Result<PageWriteSpec> {
        let (checksum, body) = (crc32fast::hash(page.data()), page.data().len());
        let mut plain = TrackedWrite::new(Vec::with_capacity(body + 64));
        let mut spec = SerializedPageWriter::new(&mut plain).write_page(page)?;
        let plain = plain.into_inner()?;
        let (header, body) = plain.split_at(plain.len() - body);
        let start = self.0.len();
        put(self.0, header, checksum)?;
        let more = self.0.len() - start - header.len();
        self.0.extend_from_slice(body);
        spec.offset = start as u64;
        spec.bytes_written += more as u64;
        spec.compressed_size += more;
        spec.uncompressed_size += more;
        Ok(spec)
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A 32-bit number one field behind the one before, in Thrift's compact protocol.
const NEXT_INT32: u8 = 0x15;

/// Appends a page header with the checksum, its field 4. The first three fields are numbers and always there (type and
/// the two sizes); the one behind them states how far it is from field 3.
fn put(out: &mut Vec<u8>, header: &[u8], checksum: u32) -> Result<()> {
    let mut at = 0;
    for _ in 0..3 {
        let number = header.get(at).filter(|field| **field == NEXT_INT32).and_then(|_| header.get(at + 1..));
        let length = number.and_then(|number| number.iter().position(|byte| byte & 0x80 == 0));
        at += 2 + length.ok_or_else(|| ParquetError::General("a page header of another form".to_owned()))?;
    }
    let Some((next, rest)) = header[at..].split_first().filter(|(next, _)| **next >= 0x20) else {
        return Err(ParquetError::General("a page header of another form".to_owned()));
    };
    out.extend_from_slice(&header[..at]);
    out.push(NEXT_INT32);
    let signed = checksum as i32;
    let mut zigzag = ((signed << 1) ^ (signed >> 31)) as u32;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
    out.push(next - 0x10);
    out.extend_from_slice(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_fourth_field() {
        // Type 3, sizes 300 and 5, then field 8.
        let header = [0x15, 6, 0x15, 0xD8, 0x04, 0x15, 10, 0x5C, 0x15, 2, 0, 0];
        let mut out = Vec::new();
        put(&mut out, &header, 0x8000_0001).expect("a header");
        assert_eq!(out[..7], header[..7]);
        // -2147483647 in zigzag.
        assert_eq!(out[7..13], [0x15, 0xFD, 0xFF, 0xFF, 0xFF, 0x0F]);
        assert_eq!(out[13], 0x4C);
        assert_eq!(out[14..], header[8..]);
        for cut in 0..8 {
            assert!(put(&mut out, &header[..cut], 1).is_err(), "{cut}");
        }
    }
}
