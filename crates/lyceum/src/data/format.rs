//! Which files hold rows, by their names.

/// File format of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Lines, a list, or such in a packed file.
    Json,
    /// Parquet.
    Parquet,
    /// Arrow's stream or file, as `datasets` saves it.
    Arrow,
}

/// The names of the files that are read, for errors.
pub(super) const READ: &str =
    ".jsonl, .ndjson, .json (also as .gz, .zst, .bz2), .parquet and .arrow files";

/// Files that tools write beside rows.
const BESIDE: [&str; 9] = [
    "config.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "generation_config.json",
    "special_tokens_map.json",
    "state.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Endings of files that may hold rows and are not read.
const UNREAD: [&str; 45] = [
    "7z",
    "avro",
    "bson",
    "br",
    "bz2",
    "cbor",
    "csv",
    "db",
    "duckdb",
    "feather",
    "gz",
    "gzip",
    "h5",
    "hdf5",
    "ipc",
    "json5",
    "lance",
    "lz4",
    "lzma",
    "msgpack",
    "npz",
    "ods",
    "orc",
    "parq",
    "pickle",
    "pkl",
    "pq",
    "psv",
    "rar",
    "sqlite",
    "sqlite3",
    "tar",
    "tbz2",
    "tfrecord",
    "tfrecords",
    "tgz",
    "tsv",
    "txt",
    "xls",
    "xlsx",
    "xml",
    "xz",
    "zip",
    "zst",
    "zstd",
];

/// Texts that lie beside rows.
const PROSE: [&str; 8] = [
    "changelog",
    "citation",
    "copying",
    "license",
    "licence",
    "notice",
    "readme",
    "requirements",
];

fn name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.to_ascii_lowercase()
}

/// The name without the ending of what packs it.
pub(super) fn unpacked(name: &str) -> &str {
    let ends = [".gz", ".gzip", ".zst", ".zstd", ".bz2", ".snappy"];
    ends.iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name)
}

/// The format of the file at `path`, by its name; `None` for one that is not read.
pub(super) fn of(path: &str) -> Option<Format> {
    let name = name(path);
    let (name, packed) = (unpacked(&name), unpacked(&name) != name);
    match name.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" | "json" => Some(Format::Json),
        // Some writers name the codec of the pages at the end.
        "parquet" => Some(Format::Parquet),
        "arrow" if !packed => Some(Format::Arrow),
        _ => None,
    }
}

/// Returns `true` if the file's name ends in `.jsonl` or `.ndjson`, compressed or not.
pub(super) fn lines(path: &str) -> bool {
    let name = name(path);
    [".jsonl", ".ndjson"]
        .iter()
        .any(|end| unpacked(&name).ends_with(end))
}

/// Returns `true` for a file of rows in a folder, not for files that tools write beside them.
pub(super) fn rows(path: &str) -> bool {
    let name = name(path);
    // What `datasets` keeps of `map` and `filter` in a saved folder.
    let kept = name.starts_with("cache-") && name.ends_with(".arrow");
    of(path).is_some() && !kept && !BESIDE.contains(&name.as_str())
}

/// Returns `true` for a file that is not read but may hold rows, so that skipping it is noted.
pub(super) fn may_hold_rows(path: &str) -> bool {
    let name = name(path);
    if of(path).is_some() || name.ends_with(".lock") || name.ends_with(".metadata") {
        return false;
    }
    let Some((stem, end)) = name.rsplit_once('.') else {
        return false;
    };
    let half = [".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".csv"];
    let prose = end == "txt" && PROSE.iter().any(|word| stem.starts_with(word));
    !prose && (UNREAD.contains(&end) || half.iter().any(|half| stem.ends_with(half)))
}

/// Returns `true` for a folder or file name that is hidden or that tools reserve (`__pycache__`,
/// `__MACOSX`).
pub(super) fn hidden(part: &str) -> bool {
    part.starts_with('.') || part.starts_with("__")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_read() {
        for (path, format) in [
            ("a/b.JSONL", Some(Format::Json)),
            ("b.json", Some(Format::Json)),
            ("b.ndjson.Zst", Some(Format::Json)),
            ("b.jsonl.bz2", Some(Format::Json)),
            ("b.snappy.parquet", Some(Format::Parquet)),
            ("b.parquet.gzip", Some(Format::Parquet)),
            ("data-00000-of-00001.arrow", Some(Format::Arrow)),
            ("b.arrow.gz", None),
            ("b.csv", None),
            ("jsonl", None),
            ("b.jsonl/c", None),
        ] {
            assert_eq!(of(path), format, "{path}");
        }
        assert!(rows("a.json") && !rows("x/State.json") && !rows("cache-12ab.arrow"));
        for left in [
            "a.csv",
            "a.csv.gz",
            "a.jsonl.xz",
            "a.jsonl.part",
            "a.txt",
            "a.arrow.gz",
            "a.GZ",
        ] {
            assert!(may_hold_rows(left), "{left}");
        }
        for other in [
            "LICENSE.txt",
            "a.jsonl.lock",
            "README.md",
            "a.py",
            "a.jsonl",
            "Makefile",
        ] {
            assert!(!may_hold_rows(other), "{other}");
        }
    }
}
