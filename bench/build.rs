//! Records which compiler built the harness: a figure without it cannot be compared.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=RUSTC");
    println!("cargo:rerun-if-changed=build.rs");
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let said = Command::new(compiler).arg("--version").output();
    let version = said
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_default();
    println!("cargo:rustc-env=HADAL_BENCH_RUSTC={}", version.trim());
}
