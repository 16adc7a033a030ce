//! Folders of rows as people have them.

use std::path::{Path, PathBuf};

use lyceum::data::{Dataset, Split};

use super::{ROW, golden, packed};

/// A folder with these files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.at(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        self
    }

    fn open(&self, path: &str) -> Dataset {
        Dataset::open(&self.at(path)).unwrap_or_else(|e| panic!("{}", e.chain()))
    }

    fn error(&self, path: &str) -> String {
        Dataset::open(&self.at(path)).unwrap_err().chain()
    }
}

/// Rows that do not say of which split they are.
fn lines(names: &[&str]) -> String {
    let row = |name: &&str| ROW.replace("w1", name).replace(",\"split\":\"test\"", "") + "\n";
    names.iter().map(row).collect()
}

fn list(names: &[&str]) -> String {
    format!("[{}]", lines(names).trim_end().replace('\n', ","))
}

/// Each row's source and the first letter of its split.
fn told(data: &Dataset) -> Vec<String> {
    let one = |row: &lyceum::data::Example| {
        let split = match row.split {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        };
        format!("{} {split}", row.source)
    };
    data.examples.iter().map(one).collect()
}

#[test]
fn everything_below_a_folder_is_read_in_the_order_of_its_paths() {
    let folder = Folder::new();
    folder
        .put("x/test-c.json", list(&["c"]))
        .put("x/test-a.jsonl", lines(&["a1", "a2"]))
        .put("x/test-d.JSONL", lines(&["d"]))
        .put("x/test-e.ndjson", lines(&["e"]))
        .put("x/test-f.Json", lines(&["f"]))
        .put("x/more/deep/train.jsonl", lines(&["m"]))
        .put("x/validation/part-0.jsonl", lines(&["v"]))
        .put("x/validation/train.json", list(&["t"]))
        .put("x/other.json", "{\"loss\": 1}")
        .put("x/numbers.json", "[1, 2]")
        .put("x/state.json", "{\"step\": 1}")
        .put("x/notes.csv", "a,b")
        .put("x/README.md", "# Text")
        // Hidden files and what tools leave.
        .put("x/._test-a.jsonl", b"\0\x05\x16\x07")
        .put("x/.cache/huggingface/test.jsonl", "no")
        .put("x/.git/test.jsonl", "no")
        .put("x/__MACOSX/test.jsonl", "no")
        .put("x/test-a.jsonl.lock", "");
    for (end, bytes) in packed(lines(&["z"]).as_bytes()) {
        folder.put(&format!("x/test-z.jsonl.{end}"), &bytes);
        folder.put(&format!("x/test-y.json.{}", end.to_uppercase()), bytes);
    }
    let data = folder.open("x");
    let wanted = [
        "m train",
        "a1 test",
        "a2 test",
        "c test",
        "d test",
        "e test",
        "f test",
        "z test",
        "z test",
        "z test",
        "z test",
        "z test",
        "z test",
        "v validation",
        "t train",
    ];
    assert_eq!(told(&data), wanted);
    let [unread, without] = &data.notes[..] else {
        panic!("{:?}", data.notes);
    };
    assert!(
        unread.starts_with("left out 1 file of kinds that are not read"),
        "{unread}"
    );
    assert!(unread.ends_with(": notes.csv"), "{unread}");
    assert!(
        without.starts_with("left out 2 files without rows (nothing there"),
        "{without}"
    );
    assert!(
        without.contains("numbers.json") && without.contains("other.json"),
        "{without}"
    );
}

/// Folders that older versions read keep their fingerprint: the rows of `*.jsonl` and `*.parquet`,
/// by name.
#[test]
#[cfg_attr(not(feature = "parquet"), ignore = "needs the feature `parquet`")]
fn flat_folders_stay_what_they_were() {
    let folder = Folder::new();
    let row = |name: &str| ROW.replace("w1", name);
    folder
        .put("x/b.jsonl", row("b"))
        .put("x/a-1.jsonl", row("a-1"))
        .put("x/a.jsonl", row("a"));
    let bytes = std::fs::read(golden("data/none.parquet")).unwrap();
    folder.put("x/c.parquet", bytes);
    let data = folder.open("x");
    let sources: Vec<&str> = data
        .examples
        .iter()
        .take(3)
        .map(|row| row.source.as_str())
        .collect();
    assert_eq!(sources, ["a-1", "a", "b"]);
    assert_eq!(
        data.fingerprint(),
        "420a081baafa5436227fd0a898c3c39e4a0b172a1595bfc412eb91e9abca142d"
    );
}

#[test]
fn a_name_says_the_split_of_rows_that_do_not() {
    let folder = Folder::new();
    folder
        .put("one/rows.jsonl", lines(&["a"]))
        .put("train/rows.jsonl", lines(&["b"]))
        .put("dev.jsonl.gz", &packed(lines(&["c"]).as_bytes())[0].1);
    assert_eq!(told(&folder.open("train")), ["b train"]);
    assert_eq!(told(&folder.open("train/rows.jsonl")), ["b train"]);
    assert_eq!(told(&folder.open("dev.jsonl.gz")), ["c validation"]);
    let error = folder.error("one");
    assert!(error.contains("rows.jsonl:1: no `split`"), "{error}");
}

/// Rows that may be there twice are said, as are files without any.
#[test]
fn doubles_and_empty_files_are_said() {
    let folder = Folder::new();
    folder
        .put("x/test.jsonl", lines(&["a"]))
        .put("x/Test.jsonl", lines(&["b"]))
        .put("x/train.jsonl", "")
        .put("x/more.json", "[]");
    assert_eq!(told(&folder.open("x")), ["b test", "a test"]);
    let notes = folder.open("x").notes.join("\n");
    assert!(notes.contains("left out 2 files without rows"), "{notes}");
    folder.put("x/test.jsonl.gz", &packed(lines(&["a"]).as_bytes())[0].1);
    let data = folder.open("x");
    assert_eq!(data.examples.len(), 3);
    let note = "read both test.jsonl and test.jsonl.gz";
    assert!(data.notes[0].contains(note), "{:?}", data.notes);
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = Folder::new();
    folder
        .put(
            "lfs/train.jsonl",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        )
        .put(
            "lfs2/train.parquet",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        )
        .put("csv/train.csv", "a,b")
        .put("csv/test.csv", "a,b")
        .put("csv/a.tsv", "a")
        .put("csv/b.jsonl.xz", "a")
        .put("none/README.md", "")
        .put("odd/train.json", "{\"a\": 1}")
        .put("half/train.jsonl", lines(&["a"]) + "{\"source\":")
        .put(
            "cut/train.jsonl.gz",
            &packed(lines(&["a"]).as_bytes())[0].1[..20],
        )
        .put("rows.txt", "a");
    for (path, why) in [
        ("lfs", "git lfs pull"),
        ("lfs2", "git lfs pull"),
        ("csv", "left out 4 files of kinds that are not read"),
        ("csv", ": a.tsv, b.jsonl.xz, test.csv, ..."),
        ("none", "it has no rows: none of .jsonl"),
        ("odd", "it holds no example; left out 1 file without rows"),
        ("half", "train.jsonl:2: "),
        ("cut", "gzip data is damaged or cut off"),
        (
            "rows.txt",
            "rows are not read from a file of this kind, but from .jsonl",
        ),
        ("gone", "not found"),
    ] {
        let error = folder.error(path);
        assert!(error.contains(why), "{path}: {error}");
    }
}

const README: &str = "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n  - split: \
                      train\n    path: data/train-*\n  - split: test\n    path: [\"data/test-*\", \
                      \"data/test-0*\"]\n- config_name: small\n  data_dir: small\n---\n# Rows\n";

fn parquet(folder: &Folder, path: &str) {
    folder.put(path, std::fs::read(golden("data/zstd.parquet")).unwrap());
}

/// A clone of a hub's repository is what `hf://datasets/owner/name` is.
#[test]
#[cfg_attr(not(feature = "parquet"), ignore = "needs the feature `parquet`")]
fn a_clone_is_read_by_its_readme() {
    let folder = Folder::new();
    parquet(&folder, "x/data/test-00000-of-00001.parquet");
    parquet(&folder, "x/data/train-00000-of-00001.parquet");
    folder
        .put("x/small/validation.jsonl", lines(&["s"]))
        .put("x/extra/test.jsonl", lines(&["e"]))
        .put("x/.gitattributes", "");
    // Without configs: all of it.
    let all = folder
        .put("x/README.md", "---\nlicense: mit\n---\n")
        .open("x");
    assert_eq!(all.examples.len(), 26);
    for readme in [
        README.to_owned(),
        README.replace('\n', "\r\n"),
        format!("\u{feff}{README}"),
        format!("\u{feff}{}", README.replace('\n', "\r\n")),
    ] {
        folder.put("x/README.md", &readme);
        let data = folder.open("x");
        assert_eq!(data.examples.len(), 24, "{readme:?}");
        let notes = data.notes.join("\n");
        assert!(notes.contains("there are others: small"), "{notes}");
        assert!(notes.contains("do not name: extra/test.jsonl"), "{notes}");
        // A configuration is named after the folder, as after an address.
        assert_eq!(told(&folder.open("x/small")), ["s validation"]);
    }
    let latin = [README.as_bytes(), b"caf\xe9"].concat();
    assert_eq!(
        folder.put("x/README.md", latin).open("x").examples.len(),
        24
    );
    folder.put("x/README.md", README.replace("data/train-*", "data/*.csv"));
    assert!(
        folder
            .error("x")
            .contains("README.md names `data/*.csv` in configs, and there is no")
    );
    folder.put("x/data/a.csv", "");
    assert!(folder.error("x").contains("and data/a.csv is not read"));
    folder.put(
        "x/README.md",
        README.replace("config_name: small", "config_name: big"),
    );
    assert_eq!(told(&folder.open("x/big")), ["s validation"]);
    folder.put("x/README.md", README.replace("split: test", "split: rest"));
    assert!(
        folder
            .error("x")
            .contains("README.md, configuration `default`: split `rest`")
    );
}

/// The hub's own cache: links to files named by their hashes.
#[cfg(unix)]
#[test]
fn the_hubs_cache_is_read_as_of_its_main() {
    let folder = Folder::new();
    folder
        .put("datasets--o--n/blobs/ab12", lines(&["a"]))
        .put("datasets--o--n/refs/main", "0a1b")
        .put("datasets--o--n/snapshots/ffff/test.jsonl", lines(&["old"]));
    let snapshot = folder.at("datasets--o--n/snapshots/0a1b");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::os::unix::fs::symlink("../../blobs/ab12", snapshot.join("test.jsonl")).unwrap();
    assert_eq!(told(&folder.open("datasets--o--n")), ["a test"]);
    folder.put("datasets--o--n/refs/main", "../../x");
    assert!(folder.error("datasets--o--n").contains("no `main`"));
}

fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copied(&path, &to),
            false => {
                std::fs::copy(&path, &to).unwrap();
            }
        }
    }
}

/// MTTL's data set as `datasets` saved it holds the rows of its JSON lines.
#[test]
fn mttls_saved_folder_is_its_rows() {
    let saved = Dataset::open(&golden("data/flan")).unwrap();
    let rows = Dataset::open(&golden("tasks.jsonl")).unwrap();
    assert_eq!((saved.examples.len(), saved.notes.len()), (240, 0));
    assert_eq!(saved.examples, rows.examples);
    assert_eq!(saved.fingerprint(), rows.fingerprint());
}

#[test]
fn saved_folders_are_read_by_what_they_say_of_themselves() {
    let folder = Folder::new();
    copied(&golden("data/saved"), &folder.at("x"));
    let whole = folder.open("x");
    // `train` lost its four rows... of which one has the answer `a0` alone.
    assert_eq!(whole.examples.len(), 11);
    let split = |split| {
        whole
            .examples
            .iter()
            .filter(|row| row.split == split)
            .count()
    };
    assert_eq!((split(Split::Train), split(Split::Test)), (7, 4));
    assert_eq!(folder.open("x/train").examples.len(), 7);
    // What `map` keeps, an older save and a split that is none are no rows.
    let shard = std::fs::read(folder.at("x/test/data-00000-of-00001.arrow")).unwrap();
    folder
        .put("x/test/cache-0123.arrow", &shard)
        .put("x/test/data-00000-of-00002.arrow", &shard)
        .put("x/validation/data-00000-of-00001.arrow", &shard);
    let again = folder.open("x");
    assert_eq!(again.examples, whole.examples);
    let notes = again.notes.join("\n");
    assert!(
        notes.contains("left out 2 files that dataset_dict.json or state.json do not name"),
        "{notes}"
    );
    assert!(notes.contains("test/data-00000-of-00002.arrow"), "{notes}");
    assert!(
        notes.contains("validation/data-00000-of-00001.arrow"),
        "{notes}"
    );
    // Damage is named.
    std::fs::remove_file(folder.at("x/test/data-00000-of-00001.arrow")).unwrap();
    let error = folder.error("x");
    assert!(
        error.contains("it names `data-00000-of-00001.arrow`, which is not there"),
        "{error}"
    );
    std::fs::remove_dir_all(folder.at("x/test")).unwrap();
    let error = folder.error("x");
    assert!(
        error.contains("it names the split `test`, and there is no such folder"),
        "{error}"
    );
    folder.put("x/train/state.json", "{");
    folder.put("x/dataset_dict.json", "{\"splits\": [\"train\"]}");
    let error = folder.error("x");
    assert!(
        error.contains("train/state.json: it is not as `datasets` writes it"),
        "{error}"
    );
    folder.put(
        "x/train/state.json",
        "{\"_data_files\": [], \"_indices_data_files\": [{\"filename\": \"i\"}]}",
    );
    assert!(folder.error("x").contains("flatten_indices"));
}

#[test]
fn a_folder_of_many_files_is_read() {
    let folder = Folder::new();
    for i in 0..2000 {
        folder.put(&format!("x/{}/test-{i:05}.jsonl", i % 7), lines(&["a"]));
    }
    assert_eq!(folder.open("x").examples.len(), 2000);
}

/// A folder that every link leads round and round in, and files that unpack without end.
#[cfg(unix)]
#[test]
fn circles_and_bombs_end() {
    let folder = Folder::new();
    folder
        .put("x/test.jsonl", lines(&["a"]))
        .put("x/a/b/test.jsonl", lines(&["b"]));
    for i in 0..20 {
        std::os::unix::fs::symlink("..", folder.at(&format!("x/a/up{i}"))).unwrap();
        std::os::unix::fs::symlink("../../a", folder.at(&format!("x/a/b/on{i}"))).unwrap();
    }
    assert_eq!(told(&folder.open("x")), ["b test", "a test"]);
    for (end, bytes) in packed(&vec![b' '; 80 << 20]) {
        folder.put(&format!("{end}/test.json.{end}"), bytes);
        let error = folder.error(end);
        assert!(error.contains("unpacks to more than"), "{error}");
    }
}
