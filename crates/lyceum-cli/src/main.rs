//! The `lyceum` command.
fn main() {}
