//! Transforms: prototypes, gates and clusters derived from experts.
//!
//! Everything kept says what it was made from; see [`Artifact`](crate::artifact::Artifact).

mod arrow;
mod cluster;
mod clusters_file;
mod phatgoose;
mod table;

pub use arrow::{arrow, top_direction};
pub use cluster::{Clustering, Clusters, Mbc, cluster, cluster_tasks};
pub use clusters_file::{ClusterTasks, read_clusters, write_clusters};
pub use phatgoose::{Phatgoose, phatgoose};
pub use table::{About, Derive, TRANSFORMS, Training, about};
