//! Blocking calls of async code: requests run on a private runtime, and callers wait.

use std::future::Future;
use std::sync::{LazyLock, mpsc};

use tracing::instrument::WithSubscriber;

use crate::error::{Error, Result};

static RUNTIME: LazyLock<std::io::Result<tokio::runtime::Runtime>> = LazyLock::new(|| {
    // Another part of the process may have chosen its provider already; that one serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("lyceum-store")
        .enable_all()
        .build()
});

/// The runtime, with encryption ready for use.
fn runtime() -> Result<&'static tokio::runtime::Runtime> {
    RUNTIME.as_ref().map_err(|error| {
        Error::invalid(format!("no threads for talking to remote stores: {error}"))
    })
}

/// Makes clients for remote places possible.
pub(super) fn ready() -> Result<()> {
    runtime().map(|_| ())
}

/// Waits for the result of `work`. May be called from any thread, also within another runtime.
pub(super) fn wait<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (done, result) = mpsc::sync_channel(1);
    // Events of the work go where those of the caller go.
    let work = work.with_current_subscriber();
    runtime()?.spawn(async move {
        // Nobody listens any more when the caller's thread has died.
        let _ = done.send(work.await);
    });
    let ended = || Error::invalid("a request to a remote store ended without an answer");
    result.recv().map_err(|_| ended())?
}
