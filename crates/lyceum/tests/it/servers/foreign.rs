//! Servers made by others, started where they are installed.
//!
//! They are in `LYCEUM_SERVERS_DIR`, or `~/.cache/lyceum-ci/servers` where `.ci/run` installs them:
//! `node_modules/.bin` (azurite, s3rver) and `venv/bin` (moto, huggingface_hub, olah). A test that
//! needs one that is not there says so and ends; `LYCEUM_SERVERS=required` makes that a failure.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The path of `program` of the installed servers; `None`, with a message on stderr, if it is
/// missing.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let root = var("LYCEUM_SERVERS_DIR").map_or_else(
        || {
            let base = var("XDG_CACHE_HOME").map(PathBuf::from);
            let base = base.or_else(|| Some(std::env::home_dir()?.join(".cache")));
            base.unwrap_or_default().join("lyceum-ci/servers")
        },
        PathBuf::from,
    );
    let mut places = ["node_modules/.bin", "venv/bin"].iter();
    let found = places.find_map(|place| {
        let path = root.join(place).join(program);
        path.exists().then_some(path)
    });
    if found.is_none() {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let text = format!("NOT TESTED: {test} needs {program}, which `bash .ci/run` installs");
        let required = var("LYCEUM_SERVERS").is_some_and(|how| how == "required");
        assert!(!required, "{text}");
        // Past the capture of output, so that it is seen.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
    found
}

/// A server that ends with this value.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port nobody listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn start(program: &str, port: u16, args: &dyn Fn(&str) -> Vec<String>) -> Option<Running> {
    let program = installed(program)?;
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(&program)
        .args(args(dir.path().to_str().unwrap()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir(dir.path())
        .spawn()
        .unwrap();
    let mut running = Running {
        child,
        port,
        _dir: dir,
    };
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = running.child.try_wait().unwrap();
        assert!(
            ended.is_none(),
            "{} ended at once: {ended:?}",
            program.display()
        );
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{} is not up",
            program.display()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(running)
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(ToOwned::to_owned).collect()
}

/// Azurite, Microsoft's emulator of Azure Blob Storage; its container `lib` is made.
pub(crate) fn azurite() -> Option<Running> {
    let port = free_port();
    let running = start("azurite-blob", port, &|dir| {
        words(&format!(
            "--blobHost 127.0.0.1 --blobPort {port} --location {dir}/data --silent \
             --disableTelemetry"
        ))
    })?;
    // Signed for ever with the emulator's well-known key.
    let made = super::request(
        port,
        "PUT",
        "/devstoreaccount1/lib?restype=container&sv=2020-08-04&ss=b&srt=sco&sp=rwdlac\
         &se=2100-01-01&sig=1aofOiReJr4GdtvsbjTbOWNLFDezvbqhK1To36fCp7Y%3D",
        &[("x-ms-version", "2020-08-04")],
    );
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    Some(running)
}

/// moto, an emulator of AWS; its bucket `lib` is made.
///
/// It looks whether a key exists and then writes it, and on a busy machine two threads may do so at
/// once, which S3 does not: Python's threads are told to take turns only where they wait.
pub(crate) fn moto() -> Option<Running> {
    let port = free_port();
    let code = format!(
        "import sys; sys.setswitchinterval(1000); from moto.server import main; \
         main(['-H', '127.0.0.1', '-p', '{port}'])"
    );
    let running = start("python3", port, &|_| vec!["-c".to_owned(), code.clone()])?;
    let made = super::request(port, "PUT", "/lib", &[]);
    assert!(made.starts_with("HTTP/1.1 200"), "{made}");
    Some(running)
}

/// s3rver, which accepts conditions and ignores them; with a bucket `lib`.
pub(crate) fn s3rver() -> Option<Running> {
    let port = free_port();
    start("s3rver", port, &|dir| {
        words(&format!(
            "-d {dir}/data -a 127.0.0.1 -p {port} --configure-bucket lib --silent"
        ))
    })
}

/// olah, a read-only hub, over the git repositories in `mirrors`.
pub(crate) fn olah(mirrors: &std::path::Path) -> Option<Running> {
    let port = free_port();
    let mirrors = mirrors.display().to_string();
    start("olah-cli", port, &|dir| {
        let config = format!(
            "[basic]\nhost = \"127.0.0.1\"\nport = {port}\nrepos-path = \"{dir}/repos\"\n\
             mirrors-path = [\"{mirrors}\"]\nmirror-scheme = \"http\"\n\
             mirror-netloc = \"127.0.0.1:{port}\"\n[accessibility]\noffline = true\n"
        );
        let path = format!("{dir}/olah.toml");
        std::fs::write(&path, config).unwrap();
        words(&format!("-c {path}"))
    })
}
