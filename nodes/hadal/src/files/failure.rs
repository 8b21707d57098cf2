//! How a verb fails, in FsShell's words.

use hadal_client::{ClientError, FaultClass};
use std::path::Path;

/// Why a verb, or one path of it, failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense: exit code 255 and the usage line.
    Usage(String),
    /// The message as it is to be printed.
    Told(String),
    /// An operation on a path, as the user wrote it, failed.
    Client {
        /// The path.
        path: String,
        /// Why.
        error: ClientError,
    },
}

impl Failure {
    /// ``the path'`, then what is wrong with it: FsShell's `PathIOException`.
    fn path(path: &str, what: &str) -> Self {
        Self::Told(format!("`{path}': {what}"))
    }

    pub(crate) fn not_found(path: &str) -> Self {
        Self::path(path, "No such file or directory")
    }

    pub(crate) fn exists(path: &str) -> Self {
        Self::path(path, "File exists")
    }

    pub(crate) fn is_directory(path: &str) -> Self {
        Self::path(path, "Is a directory")
    }

    pub(crate) fn not_directory(path: &str) -> Self {
        Self::path(path, "Is not a directory")
    }

    pub(crate) fn not_empty(path: &str) -> Self {
        Self::path(path, "Directory is not empty")
    }

    /// A local file that could not be read or written.
    pub(crate) fn local(path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let path = path.display().to_string();
        match error.kind() {
            ErrorKind::NotFound => Self::not_found(&path),
            ErrorKind::AlreadyExists => Self::exists(&path),
            ErrorKind::PermissionDenied => Self::path(&path, "Permission denied"),
            ErrorKind::IsADirectory => Self::is_directory(&path),
            ErrorKind::NotADirectory => Self::not_directory(&path),
            _ => Self::path(&path, &error.to_string()),
        }
    }

    /// A local name that is not UTF-8.
    pub(crate) fn not_utf8(path: &Path) -> Self {
        Self::path(
            &path.to_string_lossy(),
            "the name is not valid UTF-8, as all names in Hadal are; rename the file",
        )
    }

    /// Something Hadoop has and this version has not.
    pub(crate) fn unsupported(what: &str) -> Self {
        Self::Told(format!(
            "UnsupportedOperationException: {what} is not supported in this version"
        ))
    }

    /// Whether going on with other paths is pointless.
    pub(crate) fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Usage(_)
                | Self::Client {
                    error: ClientError::Unreachable { .. } | ClientError::Setup(_),
                    ..
                }
        )
    }

    /// Whether it says that there is no such path.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Client { error, .. } if error.is_not_found())
    }

    /// What is printed behind the verb's name: one line.
    pub(crate) fn message(&self) -> String {
        let (path, error) = match self {
            Self::Usage(text) | Self::Told(text) => return text.clone(),
            Self::Client { path, error } => (path, error),
        };
        let words = match error.class() {
            Some(FaultClass::NotFound) => Self::not_found(path),
            Some(FaultClass::AlreadyExists) => Self::exists(path),
            Some(FaultClass::IsDirectory) => Self::is_directory(path),
            Some(FaultClass::NotEmpty) => Self::not_empty(path),
            Some(FaultClass::Unsupported) => {
                Self::Told(format!("UnsupportedOperationException: {error}"))
            }
            _ => Self::Told(error.to_string()),
        };
        let Self::Told(text) = words else {
            unreachable!("only words are made above")
        };
        text.lines().next().unwrap_or_default().to_owned()
    }
}

/// Names the path an operation failed on.
pub(crate) trait At<T> {
    /// With the path as the user wrote it.
    fn at(self, path: &str) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, ClientError> {
    fn at(self, path: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Client {
            path: path.to_owned(),
            error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_client::Fault;

    #[test]
    fn faults_read_as_fsshell_s_errors() {
        for (class, text) in [
            (FaultClass::NotFound, "`/a': No such file or directory"),
            (FaultClass::AlreadyExists, "`/a': File exists"),
            (FaultClass::IsDirectory, "`/a': Is a directory"),
            (FaultClass::NotEmpty, "`/a': Directory is not empty"),
            (FaultClass::AccessDenied, "first line"),
            (
                FaultClass::Unsupported,
                "UnsupportedOperationException: first line",
            ),
        ] {
            let error: ClientError = Fault::new(class, "first line\nsecond").into();
            assert_eq!(Err::<(), _>(error).at("/a").unwrap_err().message(), text);
        }
    }
}
