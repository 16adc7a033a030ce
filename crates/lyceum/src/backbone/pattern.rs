//! Many sites in a few lines: `model.layers.{0..29}.self_attn.q_proj [576, 576] x30`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

/// A linear an expert can adapt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SiteShape {
    /// The path of its module.
    pub site: String,
    /// Width of its output.
    pub d_out: usize,
    /// Width of its input.
    pub d_in: usize,
}

/// Linears of one shape whose paths differ in numbers only: every choice of one number from each
/// set is one of them, and no other path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SitePattern {
    /// The path, with [`HOLE`] in place of each number.
    path: Vec<String>,
    /// The numbers of each hole, in the order of the path.
    numbers: Vec<BTreeSet<u64>>,
    d_out: usize,
    d_in: usize,
}

/// Stands for a number of a path; no part of a path is empty.
const HOLE: &str = "";

impl SitePattern {
    fn of(site: &SiteShape) -> Self {
        let (mut path, mut numbers) = (Vec::new(), Vec::new());
        for part in site.site.split('.') {
            // Only numbers that are written as they are printed: `07` stays text.
            match part.parse::<u64>() {
                Ok(number) if number.to_string() == part => {
                    path.push(HOLE.to_owned());
                    numbers.push(BTreeSet::from([number]));
                }
                _ => path.push(part.to_owned()),
            }
        }
        SitePattern {
            path,
            numbers,
            d_out: site.d_out,
            d_in: site.d_in,
        }
    }

    /// The number of linears it matches.
    pub fn count(&self) -> usize {
        self.numbers.iter().map(BTreeSet::len).product()
    }

    /// Everything but the numbers of hole `hole`, which is emptied.
    fn but(&self, hole: usize) -> (&[String], Vec<&BTreeSet<u64>>, usize, usize) {
        let others = self.numbers.iter().enumerate();
        let others = others.filter(|(i, _)| *i != hole).map(|(_, set)| set);
        (&self.path, others.collect(), self.d_out, self.d_in)
    }
}

/// The patterns of `sites`, in the order of their first sites.
pub(super) fn patterns(sites: &[SiteShape]) -> Vec<SitePattern> {
    let all: Vec<SitePattern> = sites.iter().map(SitePattern::of).collect();
    let holes = all.iter().map(|pattern| pattern.numbers.len()).max();
    // From the last number to the first: experts within a block, then blocks with equal experts.
    let holes = (0..holes.unwrap_or(0)).rev();
    holes.fold(all, |all, hole| merged(&all, hole))
}

/// Those of `all` together that differ in hole `hole` only.
fn merged(all: &[SitePattern], hole: usize) -> Vec<SitePattern> {
    let mut merged: Vec<SitePattern> = Vec::new();
    let mut found = BTreeMap::new();
    for pattern in all {
        let Some(numbers) = pattern.numbers.get(hole) else {
            merged.push(pattern.clone());
            continue;
        };
        let at = *found.entry(pattern.but(hole)).or_insert(merged.len());
        match merged.get_mut(at) {
            Some(first) => first.numbers[hole].extend(numbers),
            None => merged.push(pattern.clone()),
        }
    }
    merged
}

impl fmt::Display for SitePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers = self.numbers.iter();
        let part = |part: &String| match part.as_str() {
            HOLE => numbers.next().map(ranges).unwrap_or_default(),
            text => text.to_owned(),
        };
        let path: Vec<String> = self.path.iter().map(part).collect();
        write!(f, "{} [{}, {}]", path.join("."), self.d_out, self.d_in)?;
        match self.count() {
            1 => Ok(()),
            count => write!(f, " x{count}"),
        }
    }
}

/// `{0,2..5}`, or the number where it is one.
fn ranges(numbers: &BTreeSet<u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    if let [(first, last)] = runs[..]
        && first == last
    {
        return first.to_string();
    }
    let run = |&(first, last): &(u64, u64)| match first == last {
        true => first.to_string(),
        false => format!("{first}..{last}"),
    };
    let runs: Vec<String> = runs.iter().map(run).collect();
    format!("{{{}}}", runs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(sites: &[(String, usize, usize)]) -> Vec<String> {
        let shape = |(site, d_out, d_in): &(String, usize, usize)| SiteShape {
            site: site.clone(),
            d_out: *d_out,
            d_in: *d_in,
        };
        let sites: Vec<SiteShape> = sites.iter().map(shape).collect();
        let all = patterns(&sites);
        assert_eq!(
            all.iter().map(SitePattern::count).sum::<usize>(),
            sites.len()
        );
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn blocks_alike_are_one_line_each() {
        let mut sites = Vec::new();
        for i in 0..30 {
            sites.push((format!("model.layers.{i}.self_attn.q_proj"), 576, 576));
            sites.push((format!("model.layers.{i}.self_attn.k_proj"), 192, 576));
        }
        let want = [
            "model.layers.{0..29}.self_attn.q_proj [576, 576] x30",
            "model.layers.{0..29}.self_attn.k_proj [192, 576] x30",
        ];
        assert_eq!(said(&sites), want);
        assert_eq!(
            said(&sites[..1]),
            ["model.layers.0.self_attn.q_proj [576, 576]"]
        );
        assert!(said(&[]).is_empty());
    }

    #[test]
    fn blocks_that_differ_are_told_apart() {
        // Block 1 is wider, block 6 has no such linear, and one path has no number.
        let mut sites = vec![("model.connect".to_owned(), 3, 3)];
        for i in (0..8u64).filter(|i| *i != 6) {
            sites.push((format!("h.{i}.q"), if i == 1 { 8 } else { 4 }, 4));
        }
        let want = [
            "model.connect [3, 3]",
            "h.{0,2..5,7}.q [4, 4] x6",
            "h.1.q [8, 4]",
        ];
        assert_eq!(said(&sites), want);
    }

    #[test]
    fn two_numbers_are_a_product_only_where_they_are_one() {
        let mut sites = Vec::new();
        for i in 0..4 {
            for j in 0..(if i == 2 { 2 } else { 3 }) {
                sites.push((format!("layers.{i}.experts.{j}.up"), 6, 5));
            }
        }
        let want = [
            "layers.{0..1,3}.experts.{0..2}.up [6, 5] x9",
            "layers.2.experts.{0..1}.up [6, 5] x2",
        ];
        assert_eq!(said(&sites), want);
        // Numbers at different depths never meet, nor do `7` and `07`.
        let sites = ["a.1.b", "a.b.1", "a.2.b", "a.07.b"];
        let sites: Vec<_> = sites.map(|site| (site.to_owned(), 2, 2)).into();
        let want = ["a.{1..2}.b [2, 2] x2", "a.b.1 [2, 2]", "a.07.b [2, 2]"];
        assert_eq!(said(&sites), want);
    }
}
