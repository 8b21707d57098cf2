//! Why a NameNode could not be formatted, start or go on.

use hadal_env::DiskError;
use hadal_proto::{DecodeError, Fault};
use store_fsimage::ImageError;
use store_record::RecordError;
use thiserror::Error;

/// A NameNode stops with this.
#[derive(Debug, Error)]
pub enum RunError {
    /// The directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process serves the directory.
    #[error("{dir} is in use by another process: stop it, or give this NameNode another directory")]
    Locked {
        /// Which directory.
        dir: String,
    },
    /// There is no namespace in the directory.
    #[error("{dir} is not formatted: run `hadal namenode -format` once for a new cluster")]
    NotFormatted {
        /// Which directory.
        dir: String,
    },
    /// The directory was written by another version.
    #[error("{dir} has layout {found}, this version knows {known}: run the version that wrote it")]
    Layout {
        /// Which directory.
        dir: String,
        /// Layout found.
        found: u32,
        /// Layout of this version.
        known: u32,
    },
    /// No connection can be accepted any more.
    #[error(
        "no connections are accepted any more: the network endpoint of this process is closed; start it again"
    )]
    Deaf,
    /// The identity cannot be read.
    #[error(
        "{path}: the identity of the namespace is damaged ({what}); restore the file from a backup or from the other NameNode"
    )]
    Damaged {
        /// Which file.
        path: String,
        /// What was found.
        what: String,
    },
    /// A small record failed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// No image could be loaded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An edit of the journal cannot be decoded.
    #[error(
        "edit {txid} of the journal cannot be decoded: {source}; it was written by a newer version, or is damaged in a way its checksum does not show"
    )]
    Edit {
        /// Which.
        txid: u64,
        /// Why.
        source: DecodeError,
    },
    /// The journal does not hold what the image needs.
    #[error(
        "There appears to be a gap in the edit log. We expected txid {expected}, but the JournalNodes ({asked}) have none up to txid {end}; restore the missing segments on a JournalNode or start from a newer image"
    )]
    Gap {
        /// First missing.
        expected: u64,
        /// End of the recovered log.
        end: u64,
        /// Who was asked.
        asked: String,
    },
    /// The journal ends before what the image here holds.
    #[error(
        "the journal ends at txid {end}, the newest image here is of txid {applied}: if the journal is new, run `hadal namenode -initializeSharedEdits` once; else this directory is not of its namespace"
    )]
    JournalBehind {
        /// Last edit applied here.
        applied: u64,
        /// End of the recovered log.
        end: u64,
    },
    /// An image is broken inside.
    #[error("image at txid {txid} cannot be loaded: {what}")]
    BrokenImage {
        /// Which.
        txid: u64,
        /// Why.
        what: String,
    },
}

/// Formatting failed; nothing was changed unless the message says so.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The directory cannot be used, or holds a namespace.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There is a namespace already.
    #[error("{dir} already holds a namespace: pass -force to give it up")]
    Exists {
        /// Which directory.
        dir: String,
    },
    /// The shared directory could not be formatted.
    #[error("the shared directory {dir} could not be formatted: {reason}")]
    Shared {
        /// Which.
        dir: String,
        /// Why.
        reason: String,
    },
    /// A JournalNode could not be formatted.
    #[error(
        "JournalNode {name} at {address} could not be formatted: {reason}; all JournalNodes must be up while a cluster is formatted"
    )]
    Journalnode {
        /// Who.
        name: String,
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
}

/// A damaged namespace could not be recovered. Nothing was changed, unless the new journal could not be begun: then the image
/// is saved, and `-initializeSharedEdits -force` ends what was begun.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// The directory cannot be used, no image verifies, or the journal ends before the image.
    #[error(transparent)]
    Run(#[from] RunError),
    /// No majority of JournalNodes, or a shared directory that cannot be claimed.
    #[error(
        "the journal could not be claimed; the log says why: a majority of JournalNodes must be up, and every NameNode stopped"
    )]
    NotClaimed,
    /// The image of what was read could not be saved.
    #[error("the namespace up to the damage could not be saved: {0}")]
    NotSaved(Fault),
    /// The new journal could not be begun.
    #[error("the namespace up to the damage is saved, but no journal was begun behind it: {0}")]
    NotBegun(#[from] InitializeError),
}

/// A journal could not be set up behind an image. It is empty, or as it was.
#[derive(Debug, Error)]
pub enum InitializeError {
    /// The directory cannot be used.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The journal could not be formatted.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// There is a journal already.
    #[error(
        "the journal holds edits up to txid {end} already, and keeps them: pass -force to give them up"
    )]
    HoldsEdits {
        /// Its end.
        end: u64,
    },
    /// The journal did not take the first segment.
    #[error("the journal behind txid {txid} could not be begun: {reason}")]
    NotBegun {
        /// The image's.
        txid: u64,
        /// Why.
        reason: String,
    },
}

/// No image could be fetched; nothing of it is left.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The NameNode, or the disk here, said no.
    #[error("no image from {name}: {fault}")]
    Refused {
        /// Who.
        name: String,
        /// What it said.
        fault: Fault,
    },
    /// It does not answer, or the way to it breaks again and again.
    #[error("no image from {name} at {address}: {reason}; is it running?")]
    Unreachable {
        /// Who.
        name: String,
        /// Where.
        address: String,
        /// What happened last.
        reason: String,
    },
}

/// A NameNode could not be set up from another; the directory holds no namespace then.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// The directory cannot be used.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There is a namespace already.
    #[error("{dir} already holds a namespace: pass -force to give it up")]
    Exists {
        /// Which directory.
        dir: String,
    },
    /// No other NameNode answers.
    #[error("no other NameNode to start from: {reasons}")]
    NoNamenode {
        /// Who was asked, and what came of it.
        reasons: String,
    },
    /// The image could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The image is too old for the journal (T-H28).
    #[error(
        "Unable to read transaction ids {from}-{to} from the JournalNodes ({asked}), which are needed behind image {image}; save the namespace on the other NameNode and try again"
    )]
    MissingEdits {
        /// The image's txid.
        image: u64,
        /// First missing.
        from: u64,
        /// Last needed.
        to: u64,
        /// Who was asked.
        asked: String,
    },
}
