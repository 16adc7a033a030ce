//! Clusters as a file, in the form MTTL reads: `{"cluster_0": ["a", "b"], ...}`.
//!
//! It holds experts' names. Where an expert is called otherwise than its task, a second file
//! beside it, `NAME.tasks.json`, says what each cluster is to be trained on.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cluster::{Clusters, cluster_tasks};
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::library::Library;
use crate::train::TaskGroup;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tasks {
    /// Hex SHA-256 of the file of clusters it belongs to.
    of: String,
    tasks: Clusters,
}

/// The path of the tasks file beside the clusters at `path`.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("tasks.json")
}

/// Writes `clusters` of the experts of `library` to `path`, and beside it their tasks where some
/// expert is called otherwise than its task. Returns the path of the latter if it was needed.
///
/// # Errors
/// When a file cannot be written, or `library` holds no such expert.
pub fn write_clusters(
    path: &Path,
    library: &Library,
    clusters: &Clusters,
) -> Result<Option<PathBuf>> {
    let json = |what: &Path, value: serde_json::Result<Vec<u8>>| {
        value.map_err(|e| Error::format(what.display(), e))
    };
    let bytes = json(path, serde_json::to_vec_pretty(clusters))?;
    let groups = cluster_tasks(library, clusters)?.into_iter();
    let tasks: Clusters = groups.map(|group| (group.name, group.tasks)).collect();
    let beside = beside(path);
    if tasks == *clusters {
        crate::file::write(path, &bytes)?;
        return match std::fs::remove_file(&beside) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&beside, e)),
            _ => Ok(None),
        };
    }
    let of = sha256(&bytes);
    let more = json(&beside, serde_json::to_vec_pretty(&Tasks { of, tasks }))?;
    crate::file::write(&beside, &more)?;
    crate::file::write(path, &bytes)?;
    Ok(Some(beside))
}

/// The training tasks of the clusters in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterTasks {
    /// Each cluster with its tasks.
    pub groups: Vec<TaskGroup>,
    /// A warning about the file, if there is one.
    pub note: Option<String>,
}

impl ClusterTasks {
    fn new(clusters: Clusters, note: Option<String>) -> Self {
        let groups = clusters.into_iter();
        let groups = groups.map(|(name, tasks)| TaskGroup::new(name, tasks));
        ClusterTasks {
            groups: groups.collect(),
            note,
        }
    }
}

/// The clusters at `path` with the tasks each is to be trained on. Without a file of tasks beside
/// it the names are those of tasks.
///
/// # Errors
/// When a file is not what it should be, or it has no clusters.
pub fn read_clusters(path: &Path) -> Result<ClusterTasks> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| Error::io(path, e));
    let bytes = read(path)?;
    let clusters: Clusters = serde_json::from_slice(&bytes).map_err(|e| {
        let why = format!("not clusters, {{\"cluster_0\": [\"a\", \"b\"], ...}}: {e}");
        Error::format(path.display(), why)
    })?;
    if clusters.is_empty() {
        return Err(Error::format(path.display(), "it has no clusters"));
    }
    let beside = beside(path);
    let tasks = match read(&beside) {
        Ok(text) => serde_json::from_slice::<Tasks>(&text)
            .map_err(|e| Error::format(beside.display(), e))?,
        Err(Error::NotFound { .. }) => return Ok(ClusterTasks::new(clusters, None)),
        Err(error) => return Err(error),
    };
    if tasks.of == sha256(&bytes) {
        return Ok(ClusterTasks::new(tasks.tasks, None));
    }
    let note = format!(
        "{} belongs to another {} and is not used: the names in the latter are read as tasks",
        beside.display(),
        path.display()
    );
    Ok(ClusterTasks::new(clusters, Some(note)))
}
