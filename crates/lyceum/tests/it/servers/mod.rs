//! Places for the tests of remote stores: servers of our own that fail as told, and others'.

pub(crate) mod foreign;
pub(crate) mod http;
pub(crate) mod hub;
pub(crate) mod s3;

use std::io::{Read, Write};
use std::net::TcpStream;

/// Variables under which a process finds a server.
pub(crate) type Vars = Vec<(&'static str, String)>;

/// Environment of a process that uses the hub at `url`.
pub(crate) fn hub_vars(url: &str, token: &str) -> Vars {
    vec![
        ("HF_ENDPOINT", url.to_owned()),
        ("HF_TOKEN", token.to_owned()),
        ("HF_HUB_OFFLINE", "0".into()),
    ]
}

/// Environment of a process that uses the bucket at `url`.
pub(crate) fn s3_vars(url: &str, key: &str) -> Vars {
    vec![
        ("AWS_ENDPOINT_URL", url.to_owned()),
        ("AWS_ACCESS_KEY_ID", key.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", key.to_owned()),
        ("AWS_REGION", "us-east-1".into()),
    ]
}

/// Environment of a process that uses the bucket at `url` as one of Google Cloud's.
pub(crate) fn gcs_vars(url: &str) -> Vars {
    vec![("STORAGE_EMULATOR_HOST", url.to_owned())]
}

/// Environment of a process that uses Azurite on `port`.
pub(crate) fn azure_vars(port: u16) -> Vars {
    vec![(
        "AZURITE_BLOB_STORAGE_URL",
        format!("http://127.0.0.1:{port}"),
    )]
}

/// The beginning of the answer to a plain request without a body.
pub(crate) fn request(port: u16, method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += "Content-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.take(4000).read_to_string(&mut answer);
    answer
}
