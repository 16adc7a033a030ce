//! Bases whose weights `torch.save` wrote: `golden/saved`, made by its `make.py`.

use std::path::Path;

use lyceum::backbone::{Base, Precision};

use crate::families::{TOKENIZER, base, folder};
use crate::gguf::whole;

/// The golden's weights with the family's configuration, after `change`.
fn opened(family: &str, change: impl Fn(&Path)) -> lyceum::Result<Base> {
    let dir = tempfile::tempdir().unwrap();
    let config = std::fs::read(folder(family).join("config.json")).unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), TOKENIZER).unwrap();
    for entry in std::fs::read_dir(folder("../saved").join(family)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    change(dir.path());
    Base::open(dir.path(), Precision::F32)
}

fn refused(family: &str, change: impl Fn(&Path)) -> String {
    whole(&opened(family, change).unwrap_err())
}

#[test]
fn shards_and_the_form_before_the_zip_are_the_same_base() {
    for family in ["llama", "gpt2"] {
        let found = opened(family, |_| ()).unwrap();
        assert_eq!(found.fingerprint, base(family).fingerprint, "{family}");
    }
}

#[test]
fn damaged_or_missing_files_are_named() {
    let second = "pytorch_model-00002-of-00002.bin";
    let missing = refused("llama", |dir| {
        std::fs::remove_file(dir.join(second)).unwrap();
    });
    assert!(missing.contains(second), "{missing}");
    let cut = refused("llama", |dir| {
        let bytes = std::fs::read(dir.join(second)).unwrap();
        std::fs::write(dir.join(second), &bytes[..bytes.len() - 9]).unwrap();
    });
    assert!(cut.contains(second), "{cut}");
    let twice = refused("llama", |dir| {
        std::fs::copy(
            dir.join("pytorch_model-00001-of-00002.bin"),
            dir.join(second),
        )
        .unwrap();
    });
    assert!(twice.contains("two files"), "{twice}");
    let none = refused("gpt2", |dir| {
        std::fs::remove_file(dir.join("pytorch_model.bin")).unwrap();
    });
    assert!(
        none.contains("model.safetensors") && none.contains("holds no weights"),
        "{none}"
    );
}
