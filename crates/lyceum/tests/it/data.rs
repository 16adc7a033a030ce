//! Rows and folders of rows as tools write them.

use std::io::Write;
use std::path::Path;

use lyceum::data::{Dataset, Example, Question, Split};

mod folders;

const ROW: &str = r#"{"source":"w1","target":"w3","task_name":"t","split":"test"}"#;

pub(crate) fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn rows(bytes: impl AsRef<[u8]>) -> lyceum::Result<Dataset> {
    Dataset::from_jsonl(bytes.as_ref(), "rows.jsonl")
}

/// [`ROW`] with one field more.
fn with(field: &str) -> String {
    ROW.replace('{', &format!("{{{field},"))
}

pub(crate) fn packed(text: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(text).unwrap();
    let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    bz.write_all(text).unwrap();
    [
        ("gz", gz.finish().unwrap()),
        ("bz2", bz.finish().unwrap()),
        ("zst", zstd::bulk::compress(text, 3).unwrap()),
    ]
}

#[test]
fn rows_are_read_as_tools_write_them() {
    let wide = |unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
        let text = format!("\u{feff}{ROW}\r\n");
        text.encode_utf16().flat_map(unit).collect()
    };
    let pretty = ROW.replace(',', ",\n  ").replace('{', "{\n  ");
    let table = r#"{"schema": {"fields": [{"name": "index"}]}, "data": [ROW,ROW]}"#;
    let files: [(usize, Vec<u8>); 18] = [
        (1, with(r#""task_source":null,"template_type":null"#).into()),
        (1, format!("\u{feff}{ROW}").into()),
        (2, format!("\u{feff}{ROW}\n\u{feff}{ROW}\n").into()),
        (1, wide(u16::to_le_bytes)),
        (1, wide(u16::to_be_bytes)),
        (1, with(r#""score":NaN"#).into()),
        (
            1,
            with(r#""meta":{"loss":[Infinity,-Infinity,1e5]}"#).into(),
        ),
        (1, with(r#""raw":"x \ud83d""#).into()),
        (1, with(r#""x":1,"x":[[2],{"y":null}]"#).into()),
        (1, ROW.replace("w1", "w1\u{2028}w2\u{85}w3").into()),
        (2, format!("{ROW}\r\n{ROW}\r\n").into()),
        (2, format!("{ROW}\r{ROW}\r").into()),
        (2, format!("[{ROW},{ROW}]").into()),
        (2, format!("[\n  {pretty},\n  {pretty}\n]\n").into()),
        (1, pretty.clone().into()),
        (2, format!("{pretty}\n{pretty}\n").into()),
        (2, table.replace("ROW", ROW).into()),
        (1, ROW.replace("w3\"", "\"").into()),
    ];
    for (i, (n, file)) in files.iter().enumerate() {
        let data = rows(file).unwrap_or_else(|e| panic!("file {i}: {}", e.chain()));
        assert_eq!((data.examples.len(), data.notes.len()), (*n, 0), "file {i}");
        assert!(
            data.examples.iter().all(|row| row.source.starts_with("w1")),
            "file {i}"
        );
    }
    for (end, file) in packed(format!("{ROW}\n{ROW}").as_bytes()) {
        assert_eq!(rows(&file).unwrap().examples.len(), 2, "{end}");
    }
}

#[test]
fn a_bad_row_is_named_with_file_line_field_and_what_was_expected() {
    let target = |value: &str| ROW.replace("\"w3\"", value);
    for (bad, why) in [
        (
            target("null"),
            "`target` is null; expected a text or a list of texts",
        ),
        (target("3"), "`target` is the number 3; expected a text or"),
        (target("true"), "`target` is true"),
        (target("{}"), "`target` is an object"),
        (target("NaN"), "`target` is NaN"),
        (target("[]"), "`target` is empty"),
        (
            target("[\"w3\", null]"),
            "item 2 of `target` is null; expected a text",
        ),
        (target("[[\"w3\"]]"), "item 1 of `target` is a list"),
        (
            ROW.replace("\"w1\"", "null"),
            "`source` is null; expected a text",
        ),
        (
            ROW.replace("\"w1\"", "-Infinity"),
            "`source` is -Infinity; expected a text",
        ),
        (
            ROW.replace("\"w1\"", "[\"w1\"]"),
            "`source` is a list; expected a text",
        ),
        (ROW.replace("w1", " "), "`source` is empty"),
        (
            ROW.replace("\"t\"", "1"),
            "`task_name` is the number 1; expected a text",
        ),
        (ROW.replace("\"t\"", "\"\""), "`task_name` is empty"),
        (
            ROW.replace("\"t\"", r#""t\udc00""#),
            "`task_name` has an unpaired surrogate",
        ),
        (
            ROW.replace("task_name", "task"),
            "the field `task_name` is missing",
        ),
        (
            ROW.replace("\"t\"", "\"paws (labeled)\""),
            "`task_name`: `paws_(labeled)` is not a name",
        ),
        (
            ROW.replace("\"test\"", "1"),
            "`split` is the number 1; expected a text",
        ),
        (
            ROW.replace("\"test\"", "null"),
            "no `split`, and neither the file's name",
        ),
        (
            ROW.replace("\"test\"", "\"other\""),
            "split `other` is not train",
        ),
        (
            with(r#""task_source":7"#),
            "`task_source` is the number 7; expected a text",
        ),
        (with(r#""source":"w2""#), "`source` is there twice"),
        (with(r#""x":nan"#), "expected a value, found nan"),
        (
            ROW.replace(':', " "),
            "expected `:` after the field name `source`, found a text",
        ),
        (
            ROW.replace(",\"target", " \"target"),
            "expected `,` or `}` after the field `source`",
        ),
        (
            ROW.replace('"', "'"),
            "a field's name in double quotes, found `'`",
        ),
        (
            ROW.replace("w1", "\u{7}"),
            "a text holds a bare control character",
        ),
        (ROW.replace("w1", "\\x"), r"the unknown escape `\x`"),
        (
            "[1]".into(),
            "expected a row, an object {...}, found a list",
        ),
        (
            "source,target".into(),
            "expected a row, an object {...}, found source",
        ),
        ("{\"source\": \"w1".into(), "ends within a text"),
        (
            "{\"source\":".into(),
            "it ends before the value of `source`",
        ),
        (
            with(&format!("\"x\":{}1{}", "[".repeat(9999), "]".repeat(9999))),
            "nested deeper",
        ),
    ] {
        let text = format!("{ROW}\n\n{bad}\n");
        let error = rows(&text).unwrap_err().chain();
        assert!(error.starts_with("rows.jsonl:3: "), "{error}");
        assert!(error.contains(why), "{error} does not say {why}");
        assert!(
            !error.contains("enum") && !error.contains("column 1"),
            "{error}"
        );
    }
    let named = |bytes: &[u8], why: &str| {
        let error = rows(bytes).unwrap_err().chain();
        assert!(error.contains(why), "{error} does not say {why}");
    };
    let list = format!("[{ROW},\n{}]", target("3"));
    named(
        list.as_bytes(),
        "rows.jsonl:2 (row 2): `target` is the number 3",
    );
    named(
        format!("[{ROW},{ROW}").as_bytes(),
        "after item 2 of a list, found the end",
    );
    named(format!("[{ROW}] {ROW}").as_bytes(), "more after the list");
    let pretty = ROW.replace(',', ",\n").replace("\"w3\"", "3");
    named(
        pretty.as_bytes(),
        "rows.jsonl:1: `target` is the number 3; expected a text or a list of \
                              texts (in line 2)",
    );
    let latin: Vec<u8> = ROW
        .replace("w1", "caf~")
        .bytes()
        .map(|b| if b == b'~' { 0xe9 } else { b })
        .collect();
    named(
        &[ROW.as_bytes(), b"\n", &latin].concat(),
        "rows.jsonl:2: it is not UTF-8 (byte 0xe9)",
    );
    named(b"{\"rows\": [1]}", "the field `source` is missing");
}

/// Unpaired surrogates, which UTF-8 cannot encode, are replaced and reported.
#[test]
fn half_a_surrogate_pair_is_replaced_and_said() {
    let text = ROW.replace("w1", r"w1 \ud83d").replace("w3", r"\ude00w3");
    let data = rows(format!("{ROW}\n{text}\n")).unwrap();
    assert_eq!(data.examples[1].source, "w1 \u{fffd}");
    assert_eq!(data.examples[1].target, "\u{fffd}w3");
    let [note] = &data.notes[..] else {
        panic!("{:?}", data.notes);
    };
    assert!(
        note.contains("2 texts have an unpaired surrogate"),
        "{note}"
    );
    assert!(note.ends_with("rows.jsonl:2, `source`"), "{note}");
}

#[test]
fn questions_come_from_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let row = r#"{"query": "q", "choices": ["a", "b"], "gold": 0}"#;
    let path = dir.path().join("q.json.gz");
    std::fs::write(&path, &packed(format!("[{row}]").as_bytes())[0].1).unwrap();
    assert_eq!(Question::open(&path).unwrap().len(), 1);
    std::fs::write(&path, "[]").unwrap();
    let error = Question::open(&path).unwrap_err().to_string();
    assert!(error.contains("has no questions"), "{error}");
}

fn same(examples: &[Example]) {
    assert_eq!(examples.len(), 12);
    for (i, row) in examples.iter().enumerate() {
        assert_eq!(
            row.source,
            format!("question {i} é\n{}", "long ".repeat(i % 4))
        );
        let answers = [format!("a{i}"), "b".repeat(i * 5)];
        assert_eq!(row.references, answers[..1 + i % 2]);
        assert_eq!(row.task.as_str(), format!("task_{}", i % 2));
        assert_eq!(row.split, if i < 8 { Split::Train } else { Split::Test });
        assert_eq!(row.task_source, if i % 3 == 0 { "P3" } else { "" });
        assert_eq!(row.template_type, "");
    }
}

/// The same rows in every form that pyarrow gives them.
#[test]
#[cfg_attr(not(feature = "parquet"), ignore = "needs the feature `parquet`")]
fn arrow_and_parquet_are_read_in_all_their_forms() {
    let mut seen = 0;
    for entry in golden("data").read_dir().unwrap() {
        let path = entry.unwrap().path();
        let end = path.extension().and_then(|e| e.to_str());
        if path.is_dir() || !matches!(end, Some("arrow" | "parquet")) {
            continue;
        }
        let data = Dataset::open(&path).unwrap_or_else(|e| {
            panic!("{}", e.chain());
        });
        same(&data.examples);
        seen += 1;
    }
    assert_eq!(seen, 15);
}

#[test]
fn arrow_files_cut_anywhere_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.arrow");
    let bytes = std::fs::read(golden("data/lz4.arrow")).unwrap();
    for end in 0..bytes.len() {
        std::fs::write(&path, &bytes[..end]).unwrap();
        let error = Dataset::open(&path).unwrap_err().to_string();
        assert!(error.contains("rows.arrow: it "), "{end}: {error}");
    }
    std::fs::write(&path, [&bytes[..], b"more"].concat()).unwrap();
    let error = Dataset::open(&path).unwrap_err().to_string();
    assert!(error.contains("goes on after its end"), "{error}");
}
