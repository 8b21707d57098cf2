//! Which `hadal` is tested.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The program under test: `HADAL_BIN`, or the one Cargo put beside this test, built when it is missing.
///
/// # Panics
///
/// When it is not there and cannot be built.
pub fn hadal() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("HADAL_BIN") {
        Some(path) => path.into(),
        None => beside_this_test(),
    })
}

/// The program under test, without the settings of this test's environment.
pub fn without_settings() -> Command {
    let mut command = Command::new(hadal());
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("HADAL_") {
            command.env_remove(key);
        }
    }
    command
}

fn beside_this_test() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    // TARGET/debug/deps/TEST
    let profile_dir = test.ancestors().nth(2).expect("a target directory");
    let program = profile_dir.join("hadal");
    if !program.exists() {
        let target_dir = profile_dir.parent().expect("a target directory");
        let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
            Some("release") => "release",
            _ => "test",
        };
        let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "-p", "hadal", "--profile", profile, "--target-dir"])
            .arg(target_dir)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo");
        assert!(built.success(), "`cargo build -p hadal' failed");
    }
    program
}
