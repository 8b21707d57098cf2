//! `-cat`, `-text`, `-head`, `-tail`: content on standard output.

use super::failure::{At, Failure};
use super::path::PathData;
use super::shell::Shell;
use bytes::Bytes;
use std::time::Duration;

/// What `-head` and `-tail` show, in bytes.
const GLIMPSE: u64 = 1024;
/// Between two looks at a file that grows, unless `-s` says otherwise (Hadoop: 5 s).
const FOLLOW_MS: u64 = 5000;
/// First bytes of forms `-text` would have to decode.
const ENCODED: [(&[u8], &str); 4] = [
    (b"\x1f\x8b", "gzip"),
    (b"SEQ", "sequence file"),
    (b"Obj\x01", "Avro"),
    (b"BZh", "bzip2"),
];

/// Runs `-cat`, or with `text` `-text`.
pub(crate) async fn cat(shell: &Shell, text: bool) -> Result<(), Failure> {
    for path in shell.existing(&shell.args.args).await {
        if shell.is_over() {
            break;
        }
        shell.settle(print(shell, &path, text).await);
    }
    Ok(())
}

fn require_file(path: &PathData) -> Result<(), Failure> {
    match path.is_dir() {
        true => Err(Failure::is_directory(&path.shown)),
        false => Ok(()),
    }
}

async fn print(shell: &Shell, path: &PathData, text: bool) -> Result<(), Failure> {
    require_file(path)?;
    let mut file = shell.dfs.open(&path.path).await.at(&path.shown)?;
    let mut first = text;
    while let Some(bytes) = file.read_chunk().await.at(&path.shown)? {
        if std::mem::replace(&mut first, false)
            && let Some(form) = encoding(&bytes)
        {
            return Err(Failure::unsupported(&format!(
                "-text of `{}', encoded as {form},",
                path.shown
            )));
        }
        shell.console.bytes(&bytes);
    }
    Ok(())
}

fn encoding(bytes: &Bytes) -> Option<&'static str> {
    let found = ENCODED.iter().find(|(magic, _)| bytes.starts_with(magic));
    found.map(|(_, form)| *form)
}

async fn only_file(shell: &Shell) -> Result<PathData, Failure> {
    let mut found = shell.expand(&shell.args.args[0]).await?;
    if found.len() > 1 {
        return Err(Failure::Told(format!(
            "`{}': fits several files, give one",
            shell.args.args[0]
        )));
    }
    let path = found.pop().expect("an argument stands for something");
    path.require()?;
    require_file(&path)?;
    Ok(path)
}

/// Runs `-head`.
pub(crate) async fn head(shell: &Shell) -> Result<(), Failure> {
    let path = only_file(shell).await?;
    let mut file = shell.dfs.open(&path.path).await.at(&path.shown)?;
    let mut left = usize::try_from(GLIMPSE).expect("small");
    while left > 0 {
        let Some(mut bytes) = file.read_chunk().await.at(&path.shown)? else {
            break;
        };
        bytes.truncate(left);
        left -= bytes.len();
        shell.console.bytes(&bytes);
    }
    Ok(())
}

/// Runs `-tail`.
pub(crate) async fn tail(shell: &Shell) -> Result<(), Failure> {
    let pause = match shell.args.value("s") {
        Some(text) => text
            .parse()
            .map_err(|_| Failure::Usage(format!("-s takes milliseconds, not `{text}'")))?,
        None => FOLLOW_MS,
    };
    let path = only_file(shell).await?;
    let mut at = None;
    loop {
        let mut file = shell.dfs.open(&path.path).await.at(&path.shown)?;
        file.seek(at.unwrap_or_else(|| file.length().saturating_sub(GLIMPSE)));
        while let Some(bytes) = file.read_chunk().await.at(&path.shown)? {
            shell.console.bytes(&bytes);
        }
        at = Some(file.position());
        if !shell.args.has("f") {
            return Ok(());
        }
        shell.console.flush();
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_files_are_known_by_their_first_bytes() {
        let of = |bytes: &'static [u8]| encoding(&Bytes::from_static(bytes));
        assert_eq!(of(b"\x1f\x8b\x08"), Some("gzip"));
        assert_eq!(of(b"SEQ\x06org"), Some("sequence file"));
        assert_eq!(of(b"plain"), None);
    }
}
