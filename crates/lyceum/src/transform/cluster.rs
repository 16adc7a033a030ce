//! Model-based clustering (MBC, arXiv:2405.11157): which experts are alike.
//!
//! An expert's weights are flattened and their smallest share dropped (by quantile); the cosines
//! between experts are then clustered by k-means on their rows. With fewer experts than SVD
//! components the reference's embedding changes no cosine, so it is not needed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::library::Library;
use crate::name::Name;
use crate::rng::Rng;
use crate::train::TaskGroup;

/// The clusters, in the shape of `mbc_clusters.json`: `{"cluster_0": ["a", "b"], ...}`.
pub type Clusters = BTreeMap<Name, Vec<Name>>;

/// Settings of MBC clustering; the defaults are the tutorial's.
///
/// ```
/// use lyceum::transform::Mbc;
///
/// let config = Mbc::default().k(10).sparsity(0.3);
/// assert_eq!((config.k, config.seed), (10, 42));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Mbc {
    /// Number of clusters.
    pub k: usize,
    /// Share of the smallest weights dropped before comparing, 0 to below 1.
    pub sparsity: f64,
    /// Seed of k-means.
    pub seed: u64,
}

impl Default for Mbc {
    fn default() -> Self {
        Mbc {
            k: 2,
            sparsity: 0.2,
            seed: 42,
        }
    }
}

impl Mbc {
    /// Sets the number of clusters.
    #[must_use]
    pub fn k(mut self, clusters: usize) -> Self {
        self.k = clusters;
        self
    }

    /// Sets the share of the smallest weights, 0 to below 1, that are dropped before comparing.
    #[must_use]
    pub fn sparsity(mut self, share: f64) -> Self {
        self.sparsity = share;
        self
    }

    /// Sets the seed of k-means.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

/// The experts of a library in clusters, and the cosines the clusters were made from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Clustering {
    /// The experts of each cluster.
    pub clusters: Clusters,
    /// The experts, in the order of their names.
    pub experts: Vec<Name>,
    /// The cosine between the weights of every two experts, `[e, e]`.
    pub cosines: Vec<Vec<f64>>,
}

/// Clusters the experts of `library` by their weights; merged ones count where they are asked for
/// (see [`Library::members`]).
///
/// ```no_run
/// use lyceum::library::Library;
/// use lyceum::transform::{Mbc, cluster};
///
/// let library = Library::open("experts")?;
/// let found = cluster(&library, &Mbc::default().k(2))?;
/// for (name, experts) in &found.clusters {
///     println!("{name}: {experts:?}");
/// }
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// When there are fewer experts than clusters, or they adapt different sites.
pub fn cluster(library: &Library, how: &Mbc) -> Result<Clustering> {
    if !(0.0..1.0).contains(&how.sparsity) {
        return Err(Error::invalid("sparsity must be at least 0 and below 1"));
    }
    let experts = library.chosen()?.experts()?;
    if how.k == 0 || how.k > experts.len() {
        let n = experts.len();
        let k = how.k;
        return Err(Error::invalid(format!(
            "cannot make {k} clusters of {n} experts"
        )));
    }
    let (mut names, mut rows) = (Vec::new(), Vec::new());
    for expert in &experts {
        let mut row = Vec::new();
        for lora in expert.loras.values() {
            row.extend(lora.a.flatten_all()?.to_vec1::<f32>()?);
            row.extend(lora.b.flatten_all()?.to_vec1::<f32>()?);
        }
        names.push(expert.card.name.clone());
        rows.push(drop_smallest(row, how.sparsity));
    }
    if rows.iter().any(|row| row.len() != rows[0].len()) {
        let text = "experts must share sites and ranks to be clustered by their weights";
        return Err(Error::Mismatch(text.into()));
    }
    let cosines = cosines(&rows);
    let labels = k_means(&cosines, how.k, how.seed);
    let mut order: Vec<usize> = Vec::new();
    labels.iter().for_each(|l| {
        if !order.contains(l) {
            order.push(*l)
        }
    });
    let mut clusters = Clusters::new();
    for (name, label) in names.iter().zip(&labels) {
        let number = order.iter().position(|l| l == label).unwrap_or_default();
        let key = Name::new(&format!("cluster_{number}"))?;
        clusters.entry(key).or_default().push(name.clone());
    }
    Ok(Clustering {
        clusters,
        experts: names,
        cosines,
    })
}

/// The tasks each of `clusters` is to be trained on. Clusters hold experts' names, and an expert
/// may be called otherwise than its task: its card says what it stands for.
///
/// # Errors
/// [`Error::NotFound`] for an expert that `library` does not hold.
pub fn cluster_tasks(library: &Library, clusters: &Clusters) -> Result<Vec<TaskGroup>> {
    let mut groups = Vec::new();
    for (cluster, members) in clusters {
        let mut tasks: Vec<Name> = Vec::new();
        for member in members {
            for task in library.entry(member)?.tasks {
                if !tasks.contains(&task) {
                    tasks.push(task);
                }
            }
        }
        groups.push(TaskGroup::new(cluster.clone(), tasks));
    }
    Ok(groups)
}

/// Zeroes every value whose magnitude is at most the `share` quantile (linear interpolation).
fn drop_smallest(mut row: Vec<f32>, share: f64) -> Vec<f32> {
    let mut sizes: Vec<f32> = row.iter().map(|x| x.abs()).collect();
    sizes.sort_unstable_by(f32::total_cmp);
    let at = share * sizes.len().saturating_sub(1) as f64;
    let value = |i: usize| sizes.get(i).map_or(0.0, |x| f64::from(*x));
    let low = at.floor() as usize;
    let threshold = value(low) + (value(low + 1) - value(low)) * at.fract();
    row.iter_mut()
        .filter(|x| f64::from(x.abs()) <= threshold)
        .for_each(|x| *x = 0.0);
    row
}

fn cosines(rows: &[Vec<f32>]) -> Vec<Vec<f64>> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    let norms: Vec<f64> = rows
        .iter()
        .map(|r| dot(r, r).sqrt().max(f64::MIN_POSITIVE))
        .collect();
    let cosine = |i: usize, j: usize| dot(&rows[i], &rows[j]) / (norms[i] * norms[j]);
    (0..rows.len())
        .map(|i| (0..rows.len()).map(|j| cosine(i, j)).collect())
        .collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum()
}

fn nearest(point: &[f64], centres: &[Vec<f64>]) -> (usize, f64) {
    let mut best = (0, f64::INFINITY);
    for (i, centre) in centres.iter().enumerate() {
        let d = distance(point, centre);
        if d < best.1 {
            best = (i, d);
        }
    }
    best
}

/// Lloyd's k-means over greedy k-means++ starts, the best of ten (as the reference).
fn k_means(points: &[Vec<f64>], k: usize, seed: u64) -> Vec<usize> {
    let mut rng = Rng::named(seed, "k-means");
    let mut best = (f64::INFINITY, vec![0; points.len()]);
    for _ in 0..10 {
        let mut centres = start(points, k, &mut rng);
        let mut labels = vec![usize::MAX; points.len()];
        for _ in 0..300 {
            let next: Vec<usize> = points.iter().map(|p| nearest(p, &centres).0).collect();
            if next == labels {
                break;
            }
            labels = next;
            recentre(points, &labels, &mut centres);
        }
        let inertia: f64 = points.iter().map(|p| nearest(p, &centres).1).sum();
        if inertia < best.0 - 1e-12 {
            best = (inertia, labels);
        }
    }
    best.1
}

/// Greedy k-means++: each new centre is the best of `2 + ln k` candidates drawn by distance.
fn start(points: &[Vec<f64>], k: usize, rng: &mut Rng) -> Vec<Vec<f64>> {
    let mut centres = vec![points[rng.below(points.len())].clone()];
    let trials = 2 + (k as f64).ln() as usize;
    while centres.len() < k {
        let weights: Vec<f64> = points.iter().map(|p| nearest(p, &centres).1).collect();
        let total: f64 = weights.iter().sum();
        let mut best = (f64::INFINITY, 0);
        for _ in 0..trials {
            let mut left = rng.unit() * total;
            let drawn = weights.iter().position(|w| {
                left -= w;
                left < 0.0
            });
            let candidate = drawn.unwrap_or(points.len() - 1);
            let with: f64 = points
                .iter()
                .zip(&weights)
                .map(|(p, w)| w.min(distance(p, &points[candidate])))
                .sum();
            if with < best.0 {
                best = (with, candidate);
            }
        }
        centres.push(points[best.1].clone());
    }
    centres
}

/// Moves each centre to the mean of its points; an empty one to the point farthest from its own.
fn recentre(points: &[Vec<f64>], labels: &[usize], centres: &mut [Vec<f64>]) {
    let old = centres.to_vec();
    for (label, centre) in centres.iter_mut().enumerate() {
        let own: Vec<&Vec<f64>> = points
            .iter()
            .zip(labels)
            .filter(|(_, l)| **l == label)
            .map(|(p, _)| p)
            .collect();
        if own.is_empty() {
            let far = points
                .iter()
                .zip(labels)
                .max_by(|a, b| distance(a.0, &old[*a.1]).total_cmp(&distance(b.0, &old[*b.1])));
            if let Some((point, _)) = far {
                centre.clone_from(point);
            }
            continue;
        }
        for (i, x) in centre.iter_mut().enumerate() {
            *x = own.iter().map(|p| p[i]).sum::<f64>() / own.len() as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_share_is_dropped() {
        let row = drop_smallest(vec![1.0, -2.0, 3.0, -4.0, 5.0], 0.25);
        assert_eq!(row, [0.0, 0.0, 3.0, -4.0, 5.0]);
        assert_eq!(drop_smallest(vec![1.0, -2.0], 0.0), [0.0, -2.0]);
    }

    #[test]
    fn two_families_are_found() {
        let mut rng = Rng::new(5);
        let family = |centre: [f64; 2], rng: &mut Rng| -> Vec<Vec<f64>> {
            (0..5)
                .map(|_| centre.map(|c| c + 0.1 * rng.unit()).to_vec())
                .collect()
        };
        let mut points = family([0.0, 1.0], &mut rng);
        points.extend(family([1.0, 0.0], &mut rng));
        for seed in 0..5 {
            let labels = k_means(&points, 2, seed);
            assert!(labels[..5].iter().all(|l| *l == labels[0]));
            assert!(labels[5..].iter().all(|l| *l != labels[0]));
        }
    }
}
