//! Files of `torch.save`, good, damaged and made to harm.

use lyceum_formats::torch::{self, Stored, Value};

use crate::random::Random;

pub(crate) fn text(text: &str) -> Value<'static> {
    Value::Text(text.to_owned().into())
}

/// A file of `torch.save` around a pickle given byte for byte.
pub(crate) fn legacy(pickle: &[u8]) -> Vec<u8> {
    let mut file = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec();
    file.extend(b"\x80\x02M\xe9\x03.");
    file.extend(b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.");
    file.extend(pickle);
    file.extend(b"\x80\x02].");
    file
}

#[test]
fn hostile_pickles_are_refused_by_name() {
    let refused = |pickle: &[u8], why: &str| {
        let file = legacy(pickle);
        let error = torch::load(&file).unwrap_err().to_string();
        assert!(error.contains(why), "{error} does not say {why}");
    };
    assert!(torch::load(&legacy(b"\x80\x02}X\x01\x00\x00\x00aK\x07s.")).is_ok());
    refused(
        b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
        "os.system",
    );
    refused(b"\x80\x02cbuiltins\neval\n.", "builtins.eval");
    refused(b"\x80\x02]q\x00h\x00a.", "contains itself");
    refused(
        &[
            b"\x80\x02",
            &b"]".repeat(90)[..],
            &b"a".repeat(89)[..],
            b".",
        ]
        .concat(),
        "deeper",
    );
    refused(
        b"\x80\x02}X\x01\x00\x00\x00aK\x07sX\x01\x00\x00\x00aK\x08s.",
        "twice",
    );
    refused(b"\x80\x02X\xff\xff\xff\x7fa.", "cut off");
    refused(b"\x80\x04K\x01.", "protocol 2");
    // Lists of lists by reference: 2^40 values from some hundred bytes.
    let mut laughs = b"\x80\x02]q\x00".to_vec();
    for i in 0..40u8 {
        laughs.extend([b']', b'q', i + 1, b'h', i, b'a', b'h', i, b'a']);
    }
    laughs.push(b'.');
    refused(&laughs, "more than its own size");
    // A tensor of a terabyte without bytes.
    let claim = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n\
        FloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu\x8a\x06\x00\x00\x00\x00\x00\x01tQK\x00\
        K\x01\x85K\x01\x85\x89}tR.";
    refused(claim, "holds no storage");
}

#[test]
fn what_is_written_is_read_back() {
    let mut rng = Random(3);
    for _ in 0..50 {
        let values: Vec<f32> = (0..6).map(|_| rng.normal()).collect();
        let dict: Vec<(Value<'_>, Value<'_>)> = vec![
            (
                text("t"),
                Value::Tensor(Box::new(Stored::tensor(&[2, 3], &values))),
            ),
            (
                text("n"),
                Value::Tensor(Box::new(Stored::ndarray(&[6], &values))),
            ),
            (text("i"), Value::Int(rng.below(1 << 40) as i64 - (1 << 39))),
            (
                text("l"),
                Value::List(vec![Value::None, Value::Bool(true), Value::Float(0.1)]),
            ),
        ];
        let bytes = torch::save(&Value::Dict(dict.clone())).unwrap();
        let read = torch::load(&bytes).unwrap();
        assert_eq!(read.get("i"), Some(&dict[2].1));
        assert_eq!(read.get("l"), Some(&dict[3].1));
        for key in ["t", "n"] {
            let Some(Value::Tensor(stored)) = read.get(key) else {
                panic!("no {key}")
            };
            assert_eq!(stored.to_f32().unwrap(), values);
        }
    }
}
