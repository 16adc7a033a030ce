//! Making libraries.

use super::*;

#[test]
fn a_library_is_made_by_its_first_commit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("some/where/lib");
    let uri = path.to_str().unwrap();
    let left = || std::fs::read_dir(dir.path()).unwrap().count();
    {
        let library = Library::prepare(uri).unwrap();
        assert!(names(&library).is_empty() && library.version() == 0);
        // It was tried, and nothing is left of that.
        assert_eq!(left(), 0);
    }
    assert!(Library::open(uri).is_err());
    let (one, other) = (
        Library::prepare(uri).unwrap(),
        Library::prepare(uri).unwrap(),
    );
    one.add(&expert("a", 1), Put::New).unwrap();
    other.add(&expert("b", 2), Put::New).unwrap();
    assert_eq!(names(&Library::open(uri).unwrap()), ["a", "b"]);
    // A place that cannot be written is told at once.
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let file = dir.path().join("file/lib");
    assert!(Library::prepare(file.to_str().unwrap()).is_err());
    // One of another format is not written to.
    let strange = dir.path().join("strange");
    std::fs::create_dir(&strange).unwrap();
    std::fs::write(strange.join(MARKER), "{\"format\":99}").unwrap();
    assert!(Library::prepare(strange.to_str().unwrap()).is_err());
}

#[test]
fn writers_that_try_one_new_place_at_once_all_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/lib");
    std::thread::scope(|scope| {
        for n in 0..8u64 {
            let uri = path.to_str().unwrap();
            scope.spawn(move || {
                for _ in 0..5 {
                    Library::prepare(uri).unwrap();
                }
                let library = Library::prepare(uri).unwrap();
                library.add(&expert(&format!("e{n}"), n), Put::New).unwrap();
            });
        }
    });
    let library = Library::open(path.to_str().unwrap()).unwrap();
    assert_eq!(names(&library).len(), 8);
}
