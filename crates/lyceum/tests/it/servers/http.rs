//! A small HTTP server for tests: a thread per connection, and answers that may lie.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// A request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Decoded, without the query.
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// A response.
#[derive(Debug, Clone, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Only so many bytes of the body are sent, then the connection is closed.
    pub(crate) cut: Option<usize>,
}

impl Response {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Response {
            status,
            body: body.into(),
            ..Response::default()
        }
    }

    /// None: the connection is reset.
    pub(crate) fn reset() -> Self {
        Response::default()
    }

    pub(crate) fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers.push((name.to_owned(), format!("{value}")));
        self
    }
}

/// A running server; gone with the process.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
}

/// Starts a server whose answers `handler` makes; it is told the server's own address.
pub(crate) fn serve(handler: impl Fn(&str, Request) -> Response + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (handler, own) = (Arc::new(handler), url.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(|stream| stream.ok()) {
            let (handler, own) = (handler.clone(), own.clone());
            std::thread::spawn(move || {
                let _ = talk(&stream, |request| handler(&own, request));
            });
        }
    });
    Server { url }
}

fn talk(stream: &TcpStream, answer: impl Fn(Request) -> Response) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream.try_clone()?;
    while let Some(request) = read(&mut reader, &mut writer)? {
        let head = request.method == "HEAD";
        let response = answer(request);
        if response.status == 0 {
            // Nothing lingers, so closing sends a reset.
            socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO))?;
            return Ok(());
        }
        let mut text = format!("HTTP/1.1 {} x\r\n", response.status);
        let length = response
            .headers
            .iter()
            .any(|(n, _)| n.eq_ignore_ascii_case("content-length"));
        for (name, value) in &response.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !length {
            text += &format!("content-length: {}\r\n", response.body.len());
        }
        text += "\r\n";
        let mut all = text.into_bytes();
        if !head {
            let sent = response.cut.unwrap_or(response.body.len());
            all.extend(&response.body[..sent.min(response.body.len())]);
        }
        writer.write_all(&all)?;
        writer.flush()?;
        if response.cut.is_some() && !head {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return Ok(());
        }
    }
    Ok(())
}

fn read(reader: &mut impl BufRead, writer: &mut impl Write) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut request = Request {
        method: method.to_owned(),
        path: decoded(path),
        query: pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (spaced(name), spaced(value)))
            .collect(),
        ..Request::default()
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            None => break,
            Some((name, value)) => {
                let (name, value) = (name.to_lowercase(), value.trim().to_owned());
                request.headers.insert(name, value);
            }
        }
    }
    if request
        .headers
        .get("expect")
        .is_some_and(|e| e.contains("100"))
    {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let chunked = request.headers.get("transfer-encoding");
    if chunked.is_some_and(|how| how.contains("chunked")) {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            request.body.extend(&chunk[..size]);
        }
    } else if let Some(length) = request.headers.get("content-length") {
        request.body = vec![0; length.parse().unwrap_or(0)];
        reader.read_exact(&mut request.body)?;
    }
    Ok(Some(request))
}

/// As forms and queries write it: `+` is a space.
pub(crate) fn spaced(text: &str) -> String {
    decoded(&text.replace('+', "%20"))
}

fn decoded(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let hex = { bytes.get(at + 1..at + 3) }
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
