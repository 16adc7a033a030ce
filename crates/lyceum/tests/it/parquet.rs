//! Parquet files as other tools write them, and such as are made to exhaust memory.

use std::io::Write;
use std::sync::Arc;

use lyceum::data::{Dataset, Example};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter as _};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::{
    SerializedFileWriter, SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite,
};
use parquet::schema::parser::parse_message_type;

const SCHEMA: &str = "message rows {
    required binary source (UTF8);
    optional group target (LIST) { repeated group list { optional binary element (UTF8); } }
    optional binary task_name (UTF8);
    required int32 number;
    required binary split (UTF8);
}";

/// Settings of a written file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Uncompressed, without dictionaries.
    Plain,
    /// Snappy, in many small pages.
    Snappy,
    /// Zstd.
    Zstd,
    /// Pages of the second version.
    V2,
}

fn properties(kind: Kind) -> WriterProperties {
    let (one, two) = (WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0);
    let (compression, version, page) = match kind {
        Kind::Plain => (Compression::UNCOMPRESSED, one, 1024),
        Kind::Snappy => (Compression::SNAPPY, one, 2),
        Kind::Zstd => (Compression::ZSTD(ZstdLevel::default()), one, 1024),
        Kind::V2 => (Compression::SNAPPY, two, 2),
    };
    WriterProperties::builder()
        .set_compression(compression)
        .set_writer_version(version)
        .set_dictionary_enabled(!matches!(kind, Kind::Plain))
        .set_encoding(Encoding::PLAIN)
        .set_write_batch_size(page)
        .set_data_page_row_count_limit(page)
        .set_statistics_enabled(EnabledStatistics::None)
        .build()
}

type Rows<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

fn column(rows: &mut Rows<'_>, values: &[ByteArray], levels: Option<(i16, &[i16])>) {
    let mut column = rows.next_column().unwrap().unwrap();
    let texts = column.typed::<ByteArrayType>();
    let present = levels.map(|(level, starts)| vec![level; starts.len()]);
    let starts = levels.map(|(_, starts)| starts);
    let written = texts.write_batch(values, present.as_deref(), starts);
    assert_eq!(written.unwrap(), values.len());
    column.close().unwrap();
}

/// Twenty rows in two groups; row `i` has `i % 3 + 1` answers.
pub(crate) fn rows(kind: Kind) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let properties = properties(kind).into();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    for group in [0..12, 12..20usize] {
        let texts = |text: &dyn Fn(usize) -> String| -> Vec<ByteArray> {
            group.clone().map(|i| text(i).into_bytes().into()).collect()
        };
        let mut rows = writer.next_row_group().unwrap();
        column(&mut rows, &texts(&|i| format!("q{}?", i % 7)), None);
        let (mut answers, mut starts) = (Vec::new(), Vec::new());
        for i in group.clone() {
            for k in 0..=i % 3 {
                answers.push(ByteArray::from(format!("a{i}.{k}").into_bytes()));
                starts.push(i16::from(k > 0));
            }
        }
        column(&mut rows, &answers, Some((3, &starts)));
        let names = texts(&|_| "t".into());
        column(&mut rows, &names, Some((1, &vec![0; names.len()])));
        let numbers: Vec<i32> = group.clone().map(|i| i as i32).collect();
        let mut plain = rows.next_column().unwrap().unwrap();
        let written = plain.typed::<Int32Type>().write_batch(&numbers, None, None);
        assert_eq!(written.unwrap(), numbers.len());
        plain.close().unwrap();
        column(&mut rows, &texts(&|_| "train".into()), None);
        rows.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn open(bytes: &[u8]) -> lyceum::Result<Vec<Example>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.parquet");
    std::fs::write(&path, bytes).unwrap();
    Dataset::open(&path).map(|data| data.examples)
}

#[test]
#[cfg_attr(not(feature = "parquet"), ignore = "needs the feature `parquet`")]
fn rows_are_read_whatever_the_pages() {
    for kind in [Kind::Plain, Kind::Snappy, Kind::Zstd, Kind::V2] {
        let examples = open(&rows(kind)).unwrap();
        assert_eq!(examples.len(), 20, "{kind:?}");
        for (i, example) in examples.iter().enumerate() {
            assert_eq!(example.source, format!("q{}?", i % 7), "{kind:?}");
            let answers: Vec<String> = (0..=i % 3).map(|k| format!("a{i}.{k}")).collect();
            assert_eq!(example.references, answers, "{kind:?}");
            assert_eq!(example.task.as_str(), "t");
        }
    }
}

/// A file whose four columns are each these pages, each page with the size it claims to unpack to,
/// and which claims `rows` rows.
fn crafted(pages: &[(Page, usize)], compression: Compression, rows: u64) -> Vec<u8> {
    let schema = "message m { required binary source (UTF8); required binary target (UTF8);
        required binary task_name (UTF8); required binary split (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
    let columns = writer.schema_descr().columns().to_vec();
    let mut chunk = TrackedWrite::new(Vec::new());
    let (dictionary, mut data) = (pages[0].0.is_dictionary_page(), 0);
    for (i, (page, size)) in pages.iter().enumerate() {
        let page = CompressedPage::new(page.clone(), *size);
        let written = SerializedPageWriter::new(&mut chunk).write_page(page);
        if i == 0 && dictionary {
            data = written.unwrap().bytes_written as i64;
        }
    }
    let chunk = chunk.into_inner().unwrap();
    let size = chunk.len() as u64;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&chunk).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in columns {
        let metadata = ColumnChunkMetaData::builder(column)
            .set_compression(compression)
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE_DICTIONARY])
            .set_num_values(rows as i64)
            .set_total_compressed_size(size as i64)
            .set_total_uncompressed_size(size as i64)
            .set_data_page_offset(data)
            .set_dictionary_page_offset(dictionary.then_some(0));
        let close = ColumnCloseResult {
            bytes_written: size,
            rows_written: rows,
            metadata: metadata.build().unwrap(),
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        group.append_column(&file, close).unwrap();
    }
    group.close().unwrap();
    writer.into_inner().unwrap()
}

fn data(buf: &[u8], num_values: u32, encoding: Encoding) -> Page {
    Page::DataPage {
        buf: buf.to_vec().into(),
        num_values,
        encoding,
        def_level_encoding: Encoding::RLE,
        rep_level_encoding: Encoding::RLE,
        statistics: None,
    }
}

/// A dictionary of one text of `len` letters, which claims `num_values`.
fn dictionary(len: usize, num_values: u32) -> Page {
    let mut buf = (len as u32).to_le_bytes().to_vec();
    buf.resize(4 + len, b'x');
    Page::DictionaryPage {
        buf: buf.into(),
        num_values,
        encoding: Encoding::PLAIN,
        is_sorted: false,
    }
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// A text of `len` letters, `n` times, in little more than `len` bytes.
fn repeated(len: usize, n: u32) -> [(Page, usize); 2] {
    let run = [&[1], &varint(u64::from(n) << 1)[..], &[0]].concat();
    let data = data(&run, n, Encoding::RLE_DICTIONARY);
    [(dictionary(len, 1), len + 4), (data, run.len())]
}

#[track_caller]
fn refused(file: &[u8], why: &str) {
    let error = open(file).unwrap_err().chain();
    assert!(error.contains(why), "{error} does not say {why}");
}

#[test]
#[cfg_attr(not(feature = "parquet"), ignore = "needs the feature `parquet`")]
fn files_that_unpack_to_terabytes_are_refused() {
    let none = Compression::UNCOMPRESSED;
    let too_much = "it unpacks to more than";
    // Few and short: it is only that `xxx` is no split.
    refused(&crafted(&repeated(3, 2), none, 2), "split `xxx` is not");
    // Two terabytes of text in a kilobyte, 128 MiB in a quarter of one.
    let n = i32::MAX as u32;
    refused(&crafted(&repeated(1000, n), none, n.into()), too_much);
    refused(&crafted(&repeated(1 << 16, 2000), none, 2000), too_much);
    // Pages that claim to unpack to 2 GiB.
    for packed in [Compression::ZSTD(ZstdLevel::default()), Compression::SNAPPY] {
        let page = (data(&[0; 8], 2, Encoding::PLAIN), i32::MAX as usize);
        refused(&crafted(&[page], packed, 2), too_much);
    }
    let mut many = repeated(3, 2);
    many[0].0 = dictionary(3, n);
    refused(&crafted(&many, none, 2), "more values than it has room for");
    // An encoding that makes claims of its own.
    let delta = data(&[0xff; 16], 2, Encoding::DELTA_BYTE_ARRAY);
    refused(&crafted(&[(delta, 16)], none, 2), "neither plain nor");
    // Rows that are not there.
    let text = b"\x04\0\0\0test\x04\0\0\0test";
    let two = [(data(text, 2, Encoding::PLAIN), text.len())];
    assert_eq!(open(&crafted(&two, none, 2)).unwrap().len(), 2);
    let many = crafted(&two, none, 1 << 40);
    refused(&many, "it claims 1099511627776 rows and holds 2");
}

#[test]
#[cfg_attr(not(feature = "parquet"), ignore = "needs the feature `parquet`")]
fn footers_that_claim_too_much_are_refused() {
    // A file that is only a footer: version, schema, rows, groups.
    let file = |children: &[u64]| {
        let mut footer = vec![0x15, 2, 0x19, 0xfc];
        footer.extend(varint(children.len() as u64));
        for children in children {
            footer.extend([0x35, 0, 0x18, 1, b'c', 0x15]);
            footer.extend(varint(children * 2));
            footer.push(0);
        }
        footer.extend([0x16, 0, 0x19, 0x0c, 0]);
        let len = (footer.len() as u32).to_le_bytes();
        [b"PAR1", &footer[..], &len, b"PAR1"].concat()
    };
    refused(&file(&[0]), "holds no example");
    let (many, more) = (i32::MAX as u64, u64::from(u32::MAX));
    refused(&file(&[many, 0]), "more columns than it lists");
    refused(&file(&[1, more, 0]), "more columns than it lists");
    refused(&file(&vec![1; 100_000]), "nested deeper than 32");
    refused(&file(&[0, 0]), "more than one root");
    let mut long = file(&[0]);
    let end = long.len() - 8;
    long[end..end + 4].fill(0xff);
    refused(&long, "its footer is cut off");
    refused(b"PAR1", "not a parquet file, or truncated");
}
