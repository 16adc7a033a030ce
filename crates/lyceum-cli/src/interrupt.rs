//! Ctrl-C while something runs that can stop in good order: the first asks it to, the second ends
//! the process at once. Elsewhere a signal ends the process, as ever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Stop requests of the process, shared with the signal handlers.
#[derive(Debug)]
struct Asked {
    /// Stop in good order.
    stop: Arc<AtomicBool>,
    /// The next signal ends the process.
    now: Arc<AtomicBool>,
}

static ASKED: OnceLock<Asked> = OnceLock::new();

/// While it lives, a first Ctrl-C (or SIGTERM) only asks for a stop.
#[derive(Debug)]
pub(crate) struct Stoppable {
    asked: &'static Asked,
    /// `true` once a caller has seen the stop request.
    seen: AtomicBool,
    over: Arc<AtomicBool>,
}

impl Stoppable {
    /// Begins; `told` is called once, soon after a stop is asked for.
    pub(crate) fn begin(told: impl Fn() + Send + 'static) -> Self {
        let asked = ASKED.get_or_init(listen);
        let over = Arc::new(AtomicBool::new(false));
        if !asked.stop.load(Ordering::SeqCst) {
            asked.now.store(false, Ordering::SeqCst);
        }
        let (stop, ended) = (asked.stop.clone(), over.clone());
        std::thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                if stop.load(Ordering::SeqCst) {
                    return told();
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        Stoppable {
            asked,
            seen: AtomicBool::new(false),
            over,
        }
    }

    /// True once a stop was asked for.
    pub(crate) fn asked(&self) -> bool {
        let asked = self.asked.stop.load(Ordering::SeqCst);
        self.seen.fetch_or(asked, Ordering::SeqCst);
        asked
    }
}

impl Drop for Stoppable {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.asked.now.store(true, Ordering::SeqCst);
        // Asked for too late for whatever ran here, but asked for.
        if self.asked.stop.load(Ordering::SeqCst) && !self.seen.load(Ordering::SeqCst) {
            std::process::exit(crate::exit::STOPPED.into());
        }
    }
}

#[cfg(unix)]
fn listen() -> Asked {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::flag;
    let asked = Asked {
        stop: Arc::new(AtomicBool::new(false)),
        now: Arc::new(AtomicBool::new(true)),
    };
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Whoever started this with a signal ignored (`nohup`, a job in the background) meant it.
        if ignored(signal) {
            continue;
        }
        // In this order: with `now` set the process ends as if nobody listened. Where nobody can
        // listen, that is how it ends too.
        let _ = flag::register_conditional_default(signal, asked.now.clone())
            .and_then(|_| flag::register(signal, asked.stop.clone()))
            .and_then(|_| flag::register(signal, asked.now.clone()));
    }
    asked
}

/// Returns `true` if this process ignores `signal`, on systems that report it.
#[cfg(unix)]
fn ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(not(unix))]
fn listen() -> Asked {
    Asked {
        stop: Arc::new(AtomicBool::new(false)),
        now: Arc::new(AtomicBool::new(true)),
    }
}
