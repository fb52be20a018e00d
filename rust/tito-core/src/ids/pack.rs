//! Rows laid end to end in packs of a given length, so that a batch holds little padding. A row is never cut.
//!
//! [`plan`] looks at lengths alone: first-fit-decreasing, longest rows first, each into the first pack that has room;
//! of equal rows the earlier goes first, so equal input gives equal packs. Finding that pack in a tree of free rooms
//! takes O(log n). [`lay`] then writes the sequences of one pack behind each other, with positions that restart.

use super::{Id, loss};
use crate::error::{Error, Result};
use std::ops::Range;

/// What becomes of rows that are longer than a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlong {
    /// An error.
    Error,
    /// Left out, and told.
    Drop,
}

/// Which rows go together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rows, pack by pack; inside a pack in the order in which they came.
    pub rows: Vec<usize>,
    /// Where in `rows` each pack starts, and where the last ends: one more than there are packs.
    pub starts: Vec<usize>,
    /// Rows that are too long, in their order.
    pub left_out: Vec<usize>,
}

impl Plan {
    /// The rows of each pack.
    pub fn packs(&self) -> impl Iterator<Item = &[usize]> {
        self.starts.windows(2).map(|ends| &self.rows[ends[0]..ends[1]])
    }
}

/// First-fit-decreasing.
///
/// # Errors
/// `Usage` for a pack length of 0 and, unless they are left out, for a row that is longer than a pack.
pub fn plan(lengths: &[usize], pack: usize, overlong: Overlong) -> Result<Plan> {
    if pack == 0 {
        return Err(Error::usage("packs of 0 ids hold nothing", "give the number of ids of a pack, like 8192"));
    }
    let mut left_out = Vec::new();
    let mut order = Vec::with_capacity(lengths.len());
    let mut total = 0u128;
    for (row, length) in lengths.iter().enumerate() {
        if *length <= pack {
            order.push(row);
            total += *length as u128;
        } else if overlong == Overlong::Drop {
            left_out.push(row);
        } else {
            return Err(Error::usage(
                format!("row {row} has {length} ids, a pack has {pack}"),
                "give a longer pack, or leave such rows out (drop); they are never cut",
            ));
        }
    }
    // Stable: of equal rows the earlier goes first.
    order.sort_by_key(|row| std::cmp::Reverse(lengths[*row]));
    // Two packs always hold more than one pack's length together, or the rows of the later would be in the earlier.
    let most = usize::try_from(2 * total / pack as u128 + 1).unwrap_or(usize::MAX).min(order.len());
    let mut rooms = Rooms::new(most, pack);
    let mut packs = 0;
    let mut pack_of = vec![0usize; lengths.len()];
    for row in &order {
        let at = rooms.take(lengths[*row]);
        packs = packs.max(at + 1);
        pack_of[*row] = at;
    }
    let mut starts = vec![0usize; packs + 1];
    for row in &order {
        starts[pack_of[*row] + 1] += 1;
    }
    for at in 0..packs {
        starts[at + 1] += starts[at];
    }
    let mut next = starts.clone();
    let mut rows = vec![0; order.len()];
    for (row, length) in lengths.iter().enumerate() {
        if *length <= pack {
            let place = &mut next[pack_of[row]];
            rows[*place] = row;
            *place += 1;
        }
    }
    Ok(Plan { rows, starts, left_out })
}

/// Free room of all packs: a binary tree whose nodes hold the largest room below them. Node 1 is the root, the leaves
/// are the packs in their order.
struct Rooms {
    largest: Vec<usize>,
    leaves: usize,
}

impl Rooms {
    fn new(packs: usize, room: usize) -> Self {
        let leaves = packs.max(1).next_power_of_two();
        Self { largest: vec![room; 2 * leaves], leaves }
    }

    /// Takes room from the first pack that has it. One has: there are as many packs as can be needed.
    fn take(&mut self, length: usize) -> usize {
        let mut node = 1;
        while node < self.leaves {
            node *= 2;
            if self.largest[node] < length {
                node += 1;
            }
        }
        let pack = node - self.leaves;
        self.largest[node] -= length;
        while node > 1 {
            node /= 2;
            self.largest[node] = self.largest[2 * node].max(self.largest[2 * node + 1]);
        }
        pack
    }
}

/// Sequences that are packed: ids of all rows behind each other, what each position weighs, and where rows are.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Ids of all rows.
    pub ids: &'a [Id],
    /// Loss weight of each id; 0 is no loss.
    pub weights: &'a [f32],
    /// Where each row starts in both, and where the last ends.
    pub offsets: &'a [i64],
}

/// Packs, laid out: the first four are as long as all packs together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Laid {
    /// Ids.
    pub input_ids: Vec<Id>,
    /// The ids, or -100 where no loss falls. Not shifted.
    pub labels: Vec<Id>,
    /// Loss weights.
    pub weights: Vec<f32>,
    /// Position in the row, from 0 again at each row.
    pub position_ids: Vec<Id>,
    /// Where in the four each row starts, and where the last ends.
    pub sequence_starts: Vec<i64>,
    /// Where each pack starts, and where the last ends.
    pub pack_starts: Vec<i64>,
}

/// Lays the rows of a plan behind each other. The first id of a row carries no loss: a trainer that shifts by one would
/// predict it from the row before.
///
/// # Errors
/// `Usage` when the offsets do not fit the arrays, or the plan names other rows.
pub fn lay(rows: Rows<'_>, plan_rows: &[i64], plan_starts: &[i64]) -> Result<Laid> {
    let wrong = |what: String| {
        Error::usage(what, "offsets are those of the ids, one more than rows; the plan is of those rows")
    };
    if rows.ids.len() != rows.weights.len() {
        return Err(wrong(format!("{} ids, {} weights", rows.ids.len(), rows.weights.len())));
    }
    let range = |ends: &[i64], most: usize| -> Option<Range<usize>> {
        let (start, end) = (usize::try_from(ends[0]).ok()?, usize::try_from(ends[1]).ok()?);
        (start <= end && end <= most).then_some(start..end)
    };
    let mut laid = Laid { pack_starts: vec![0], ..Laid::default() };
    let ids: usize = {
        let length = |row: &i64| {
            let ends = usize::try_from(*row).ok().and_then(|row| rows.offsets.get(row..row + 2))?;
            range(ends, rows.ids.len()).map(|range| range.len())
        };
        let lengths =
            plan_rows.iter().map(|row| length(row).ok_or_else(|| wrong(format!("row {row} is not among the ids"))));
        lengths.sum::<Result<usize>>()?
    };
    laid.input_ids.reserve(ids);
    laid.weights.reserve(ids);
    laid.position_ids.reserve(ids);
    laid.sequence_starts.reserve(plan_rows.len() + 1);
    for ends in plan_starts.windows(2) {
        let packed = range(ends, plan_rows.len()).ok_or_else(|| wrong(format!("a pack of the rows {ends:?}")))?;
        for row in &plan_rows[packed] {
            // Checked above.
            let at = *row as usize;
            let (start, end) = (rows.offsets[at] as usize, rows.offsets[at + 1] as usize);
            laid.sequence_starts.push(laid.input_ids.len() as i64);
            let (ids, weights) = (&rows.ids[start..end], &rows.weights[start..end]);
            let first = laid.weights.len();
            laid.input_ids.extend_from_slice(ids);
            laid.weights.extend_from_slice(weights);
            if let Some(weight) = laid.weights.get_mut(first) {
                *weight = 0.0;
            }
            laid.position_ids.extend(0..ids.len() as Id);
        }
        laid.pack_starts.push(laid.input_ids.len() as i64);
    }
    laid.sequence_starts.push(laid.input_ids.len() as i64);
    laid.labels = loss::labels(laid.input_ids.iter().copied(), &laid.weights);
    Ok(laid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule as it is said.
    fn slow(lengths: &[usize], pack: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..lengths.len()).filter(|row| lengths[*row] <= pack).collect();
        order.sort_by_key(|row| std::cmp::Reverse(lengths[*row]));
        let mut packs: Vec<Vec<usize>> = Vec::new();
        for row in order {
            let has_room =
                |rows: &Vec<usize>| rows.iter().map(|row| lengths[*row]).sum::<usize>() + lengths[row] <= pack;
            match packs.iter().position(has_room) {
                Some(at) => packs[at].push(row),
                None => packs.push(vec![row]),
            }
        }
        packs.iter_mut().for_each(|rows| rows.sort_unstable());
        packs
    }

    #[test]
    fn rows_are_never_cut() {
        let error = plan(&[3, 9], 8, Overlong::Error).unwrap_err();
        assert_eq!(error.to_string(), "row 1 has 9 ids, a pack has 8");
        let made = plan(&[3, 9, 5], 8, Overlong::Drop).unwrap();
        assert_eq!((made.rows, made.starts, made.left_out), (vec![0, 2], vec![0, 2], vec![1]));
        assert_eq!(plan(&[], 8, Overlong::Error).unwrap().starts, [0]);
        assert_eq!(plan(&[1], 0, Overlong::Error).unwrap_err().to_string(), "packs of 0 ids hold nothing");
    }

    #[test]
    fn sequences_lie_behind_each_other() {
        let rows = Rows { ids: &[1, 2, 3, 4, 5], weights: &[1.0, 0.5, 0.0, 0.0, 2.0], offsets: &[0, 2, 5] };
        let laid = lay(rows, &[0, 1], &[0, 1, 2]).unwrap();
        assert_eq!(laid.input_ids, [1, 2, 3, 4, 5]);
        assert_eq!(laid.labels, [-100, 2, -100, -100, 5]);
        assert_eq!(laid.weights, [0.0, 0.5, 0.0, 0.0, 2.0]);
        assert_eq!(laid.position_ids, [0, 1, 0, 1, 2]);
        assert_eq!((laid.sequence_starts, laid.pack_starts), (vec![0, 2, 5], vec![0, 2, 5]));
    }

    #[test]
    fn a_plan_of_other_rows_is_refused() {
        let rows = Rows { ids: &[1, 2], weights: &[1.0, 1.0], offsets: &[0, 2] };
        let refused = |rows, plan: &[i64], starts: &[i64]| lay(rows, plan, starts).unwrap_err().to_string();
        assert_eq!(refused(rows, &[1], &[0, 1]), "row 1 is not among the ids");
        assert_eq!(refused(rows, &[-1], &[0, 1]), "row -1 is not among the ids");
        assert_eq!(refused(rows, &[0], &[0, 2]), "a pack of the rows [0, 2]");
        assert_eq!(refused(Rows { offsets: &[0, 3], ..rows }, &[0], &[0, 1]), "row 0 is not among the ids");
        assert_eq!(refused(Rows { weights: &[1.0], ..rows }, &[0], &[0, 1]), "2 ids, 1 weights");
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_a_search_finds(lengths in prop::collection::vec(0usize..40, 0..120), pack in 1usize..50) {
            let made = plan(&lengths, pack, Overlong::Drop).unwrap();
            let packs: Vec<Vec<usize>> = made.packs().map(<[usize]>::to_vec).collect();
            prop_assert_eq!(packs, slow(&lengths, pack));
            prop_assert_eq!(made.rows.len() + made.left_out.len(), lengths.len());
        }

        #[test]
        fn no_two_packs_fit_into_one(lengths in prop::collection::vec(1usize..40, 1..120)) {
            let made = plan(&lengths, 40, Overlong::Error).unwrap();
            let fill: Vec<usize> = made.packs().map(|rows| rows.iter().map(|row| lengths[*row]).sum()).collect();
            prop_assert!(fill.iter().all(|ids| *ids <= 40));
            for (at, one) in fill.iter().enumerate() {
                prop_assert!(fill[at + 1..].iter().all(|other| one + other > 40));
            }
        }
    }
}
