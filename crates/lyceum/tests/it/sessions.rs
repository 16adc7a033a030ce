//! Sessions: one process opens the same places with other credentials, caches and without a network.

use lyceum::Error;
use lyceum::error::RemoteErrorKind;
use lyceum::library::Library;
use lyceum::store::{self, Cache, Session, Wanted};

use crate::library::expert;
use crate::servers::hub::TOKEN;
use crate::store_laws::Backend;

/// A session that finds `place`, with the cache `cache`.
fn session(place: &Backend, cache: &tempfile::TempDir) -> Session {
    let session = Session::isolated().with_cache(Cache::new(cache.path()));
    let vars = place.vars.iter();
    vars.fold(session, |session, (name, value)| {
        session.with_var(name, value)
    })
}

fn kind(error: &Error) -> Option<RemoteErrorKind> {
    match error.root() {
        Error::Remote { kind, .. } => Some(*kind),
        _ => None,
    }
}

fn fill(uri: &str, session: &Session) {
    let library = Library::create_with(uri, session).unwrap();
    let mut batch = library.batch().unwrap();
    for name in ["a", "b"] {
        let put = store::Put::New;
        batch.add(&expert(name, 1), put).unwrap();
    }
    batch.commit().unwrap();
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn one_session_is_offline_and_another_is_not() {
    let (place, s3) = Backend::s3();
    let (full, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let online = session(&place, &full);
    fill(&place.uri, &online);
    let read = |session: &Session| Library::open_with(&place.uri, session)?.experts();
    assert_eq!(read(&online).unwrap().len(), 2);
    let offline = online.clone().with_offline(true);
    s3.asked();
    assert_eq!(read(&offline).unwrap().len(), 2);
    let apart = session(&place, &empty).with_offline(true);
    assert_eq!(
        kind(&read(&apart).unwrap_err()),
        Some(RemoteErrorKind::Offline)
    );
    let nothing = apart.clone().with_cache(None);
    assert_eq!(
        kind(&read(&nothing).unwrap_err()),
        Some(RemoteErrorKind::Offline)
    );
    assert_eq!(s3.asked(), Vec::<String>::new());
    // The others are still online, and each keeps what it reads in its own cache.
    assert_eq!(read(&apart.clone().with_offline(false)).unwrap().len(), 2);
    assert!(!s3.asked().is_empty());
    assert_eq!(read(&apart).unwrap().len(), 2);
    assert!(apart.cache().unwrap().usage().unwrap().objects >= 2);
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn sessions_have_tokens_of_their_own() {
    let (place, hub) = Backend::hub();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [own, other, base] = [0, 1, 2].map(|at| session(&place, &folders[at]));
    let other = other.with_hf_token("hf_anotherone");
    fill(&place.uri, &own);
    for session in [&other, &own, &other] {
        let read = Library::open_with(&place.uri, session).and_then(|library| library.names());
        match std::ptr::eq(session, &own) {
            true => assert_eq!(read.unwrap().len(), 2),
            false => {
                let error = read.unwrap_err();
                let said = error.chain();
                assert_eq!(kind(&error), Some(RemoteErrorKind::Credentials), "{said}");
                assert!(!said.contains(TOKEN) && !said.contains("hf_anotherone"));
            }
        }
    }
    // A repository as a folder goes to the cache of the session that fetches it.
    hub.fill("tester/base", &[("config.json", b"{}")]);
    let path = std::path::Path::new("hf://tester/base");
    let dir = store::fetched_with(path, Wanted::Base, &base).unwrap();
    assert!(dir.starts_with(folders[2].path()) && dir.join("config.json").is_file());
    assert!(store::fetched_with(path, Wanted::Base, &other).is_err());
}
