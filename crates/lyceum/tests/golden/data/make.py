"""Rows as other tools write them, made once: pip install datasets pyarrow; python make.py

All files but `saved` hold ROWS, as pyarrow writes them. `saved` is a DatasetDict that `datasets` saved, its
`train` filtered afterwards and saved again without an index. `flan` is not made here: it is a folder that MTTL
(commit 3724abf5) reads, with the rows of ../tasks.jsonl.
"""
import json, os, shutil
import pyarrow as pa, pyarrow.parquet as pq

os.chdir(os.path.dirname(os.path.abspath(__file__)))
ROWS = [
    dict(id=i, source=f"question {i} é\n" + "long " * (i % 4), target=[f"a{i}", "b" * (i * 5)][: 1 + i % 2],
         task_name=f"task {i % 2}", split="train" if i < 8 else "test", task_source=None if i % 3 else "P3",
         template_type=None, meta={"score": [0.5 * i], "flag": i % 2 == 0})
    for i in range(12)
]
TEXT = pa.string()


def table(text=TEXT, items=pa.list_, names=None):
    names = names or text
    meta = pa.struct([("score", pa.list_(pa.float64())), ("flag", pa.bool_())])
    return pa.Table.from_pylist(ROWS, pa.schema([
        ("id", pa.int64()), ("source", text), ("meta", meta), ("target", items(text)), ("task_name", names),
        ("split", names), ("task_source", text), ("template_type", pa.null())]))


def arrow(name, table, new=pa.ipc.new_stream, **options):
    with pa.OSFile(name, "wb") as file, new(file, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        for batch in table.to_batches(max_chunksize=5):
            out.write_batch(batch)


arrow("plain.arrow", table())
arrow("file.arrow", table(), pa.ipc.new_file)
arrow("lz4.arrow", table(), compression="lz4")
arrow("zstd.arrow", table(pa.large_string(), pa.large_list), compression="zstd")
arrow("views.arrow", table(pa.string_view()))
arrow("dictionaries.arrow", table(names=pa.dictionary(pa.int8(), TEXT)))
words = pa.dictionary(pa.uint32(), TEXT)
arrow("growing.arrow", table(names=words), emit_dictionary_deltas=True)
arrow("old.arrow", table(), use_legacy_format=True)

for codec in ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]:
    pq.write_table(table(), f"{codec}.parquet", compression=codec, row_group_size=7, write_statistics=False)
pq.write_table(table(), "pages2.parquet", compression="gzip", data_page_version="2.0", write_statistics=False)

try:
    import datasets
except ImportError:
    raise SystemExit("datasets is not installed; `saved` is left as it is")
shutil.rmtree("saved", ignore_errors=True)
rows = [{key: row[key] for key in ("source", "target", "task_name", "task_source")} for row in ROWS]
both = datasets.DatasetDict(train=datasets.Dataset.from_list(rows[:8]), test=datasets.Dataset.from_list(rows[8:]))
both["train"] = both["train"].filter(lambda row: row["target"] != ["a0"])
both.save_to_disk("saved", num_shards={"train": 2, "test": 1})
