//! `-truncate` and `-concat`: files cut and joined.

use super::failure::{At, Failure};
use super::path::PathData;
use super::shell::Shell;
use std::time::Duration;

/// Between two looks at a file whose last block is being recovered (Hadoop: 1 s).
const WAIT: Duration = Duration::from_millis(500);

/// Runs `-truncate`.
pub(crate) async fn truncate(shell: &Shell) -> Result<(), Failure> {
    let (length, paths) = shell
        .args
        .args
        .split_first()
        .expect("at least two arguments");
    let length = wanted_length(length).map_err(Failure::Usage)?;
    let mut waiting = Vec::new();
    for path in shell.existing(paths).await {
        if shell.is_over() {
            break;
        }
        match cut(shell, &path, length).await {
            Ok(true) => shell.line(format!("Truncated {} to length: {length}", path.shown)),
            Ok(false) if shell.args.has("w") => waiting.push(path),
            Ok(false) => shell.line(format!(
                "Truncating {} to length: {length}. Wait for block recovery to complete before further updating this file.",
                path.shown
            )),
            Err(failure) => shell.complain(&failure),
        }
    }
    for path in waiting {
        if shell.is_over() {
            break;
        }
        shell.settle(wait(shell, &path).await);
    }
    Ok(())
}

/// The length to cut to, in bytes.
pub(super) fn wanted_length(text: &str) -> Result<u64, String> {
    match text.parse::<i64>() {
        Ok(length) => {
            u64::try_from(length).map_err(|_| format!("the length must be >= 0, not {length}"))
        }
        Err(_) => Err(format!(
            "the length must be a number of bytes, not `{text}'"
        )),
    }
}

async fn cut(shell: &Shell, path: &PathData, length: u64) -> Result<bool, Failure> {
    let status = path.require()?;
    if status.is_dir {
        return Err(Failure::is_directory(&path.shown));
    }
    if length > status.length {
        return Err(Failure::Told(format!(
            "Cannot truncate to a larger file size. Current size: {}, truncate size: {length}.",
            status.length
        )));
    }
    shell.dfs.truncate(&path.path, length).await.at(&path.shown)
}

async fn wait(shell: &Shell, path: &PathData) -> Result<(), Failure> {
    shell
        .console
        .bytes(format!("Waiting for {} ...", path.shown).as_bytes());
    shell.console.flush();
    while !shell.dfs.is_file_closed(&path.path).await.at(&path.shown)? {
        tokio::time::sleep(WAIT).await;
        shell.console.bytes(b".");
        shell.console.flush();
    }
    shell.line(" ready");
    Ok(())
}

/// Runs `-concat`.
pub(crate) async fn concat(shell: &Shell) -> Result<(), Failure> {
    let mut files = Vec::new();
    for written in &shell.args.args {
        let path = shell.look(written).await?;
        if path.require()?.is_dir {
            return Err(Failure::is_directory(&path.shown));
        }
        files.push(path);
    }
    let (target, sources) = files.split_first().expect("at least two arguments");
    let sources: Vec<String> = sources.iter().map(|source| source.path.clone()).collect();
    shell
        .dfs
        .concat(&target.path, &sources)
        .await
        .at(&target.shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_numbers_from_zero() {
        assert_eq!(wanted_length("0").unwrap(), 0);
        assert_eq!(wanted_length("4097").unwrap(), 4097);
        for bad in ["-1", "4k", ""] {
            assert!(wanted_length(bad).is_err(), "{bad}");
        }
    }
}
