//! Which records make a part.
//!
//! Groups of all files that share a key are one. In the order in which they first appear they fill parts: a part ends
//! with the file in which it is full, so that most files are read as they are; at twice its size it ends anywhere.

use super::scan::{NO_GROUP, Scan, Sets};

/// A part.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Bytes of input, as they lie on disk.
    pub bytes: u64,
    /// The files it is made of, or of lines of which.
    pub files: Vec<usize>,
}

/// See the module. Besides the parts, for each file whose lines go to more than one: the part of each line (`u32::MAX`:
/// of none). `sizes`: bytes on disk of the files.
#[must_use]
pub fn plan_parts(scans: &[Scan], sizes: &[u64], part_bytes: u64) -> (Vec<Members>, Vec<(usize, Vec<u32>)>) {
    let mut sets = Sets::default();
    let (mut file_of, mut bytes, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for (file, (scan, size)) in scans.iter().zip(sizes).enumerate() {
        offsets.push(file_of.len() as u32);
        let text = scan.groups.iter().sum::<u64>().max(1);
        for group in &scan.groups {
            sets.add();
            file_of.push(file);
            bytes.push((u128::from(*group) * u128::from(*size) / u128::from(text)) as u64);
        }
    }
    let of_file = |(scan, offset): (&Scan, &u32)| scan.keys.iter().map(|(key, at)| (*key, at + offset)).collect();
    let mut keys: Vec<(u64, u32)> = scans.iter().zip(&offsets).flat_map::<Vec<_>, _>(of_file).collect();
    keys.sort_unstable();
    for pair in keys.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        sets.join(pair[0].1, pair[1].1);
    }
    drop(keys);
    let firsts: Vec<usize> = (0..file_of.len()).map(|at| sets.first(at as u32) as usize).collect();
    let mut together = vec![0; firsts.len()];
    firsts.iter().zip(&bytes).for_each(|(first, bytes)| together[*first] += bytes);
    let mut parts: Vec<Members> = Vec::new();
    let mut part_of = vec![0_u32; firsts.len()];
    let mut last = 0;
    for at in 0..firsts.len() {
        if firsts[at] == at {
            let full = |part: &Members| {
                part.bytes >= part_bytes && (file_of[at] != last || part.bytes >= part_bytes.saturating_mul(2))
            };
            if parts.last().is_none_or(full) {
                parts.push(Members::default());
            }
            last = file_of[at];
            part_of[at] = parts.len() as u32 - 1;
            parts[part_of[at] as usize].bytes += together[at];
        }
        part_of[at] = part_of[firsts[at]];
        let files = &mut parts[part_of[at] as usize].files;
        if files.last() != Some(&file_of[at]) {
            files.push(file_of[at]);
        }
    }
    let mut splits = Vec::new();
    for (file, (scan, offset)) in scans.iter().zip(&offsets).enumerate() {
        let parts = &part_of[*offset as usize..][..scan.groups.len()];
        if parts.windows(2).any(|pair| pair[0] != pair[1]) {
            let part = |group: &u32| if *group == NO_GROUP { NO_GROUP } else { parts[*group as usize] };
            splits.push((file, scan.lines.iter().map(part).collect()));
        }
    }
    (parts, splits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(groups: &[u64], keys: &[(u64, u32)], lines: &[u32]) -> Scan {
        Scan { groups: groups.to_vec(), keys: keys.to_vec(), lines: lines.to_vec() }
    }

    fn files(parts: &[Members]) -> Vec<(u64, &[usize])> {
        parts.iter().map(|part| (part.bytes, &part.files[..])).collect()
    }

    #[test]
    fn a_part_ends_with_the_file_in_which_it_is_full() {
        let file = |key| scan(&[4, 4], &[(key, 0), (key + 1, 1)], &[0, 1]);
        let (parts, splits) = plan_parts(&[file(0), file(2), file(4)], &[8, 8, 8], 10);
        assert_eq!(files(&parts), [(16, &[0, 1][..]), (8, &[2])]);
        assert_eq!(splits, []);
    }

    #[test]
    fn a_large_file_is_shared_at_twice_the_size() {
        let one = scan(&[5, 5, 5, 5, 5], &[], &[0, 1, NO_GROUP, 2, 3, 4]);
        // Compressed: half as many bytes on disk.
        let (parts, splits) = plan_parts(&[one], &[12], 2);
        assert_eq!(files(&parts), [(4, &[0][..]), (4, &[0]), (2, &[0])]);
        assert_eq!(splits, [(0, vec![0, 0, NO_GROUP, 1, 1, 2])]);
    }

    #[test]
    fn what_shares_a_key_shares_a_part_through_any_number_of_files() {
        // 1 ties the first two files, 2 the second and the last.
        let first = scan(&[1, 1], &[(1, 1)], &[0, 1]);
        let second = scan(&[1, 1], &[(1, 0), (2, 0)], &[1, 0]);
        let last = scan(&[1, 1], &[(2, 1)], &[0, 1]);
        let (parts, splits) = plan_parts(&[first, second, last], &[2, 2, 2], 1);
        assert_eq!(files(&parts), [(4, &[0, 1, 2][..]), (1, &[1]), (1, &[2])]);
        assert_eq!(splits, [(1, vec![1, 0]), (2, vec![2, 0])]);
    }
}
